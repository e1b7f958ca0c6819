//! The evaluator against its rules, one by one, and against a reference that remembers everything.

mod fixture;
mod property;
mod reference;
mod restart;
mod rules;
mod scale;
