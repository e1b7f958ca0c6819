//! The pace of one host against simulated limiters.
