//! Policy as code: what is wanted, read from TOML files, checked whole, compared, and compiled to what each check
//! comes to. Pure: no I/O, and `now` is an argument.
//!
//! [`read()`] gives a [`Policy`] or every mistake; [`warnings()`], [`inactive()`], [`load()`] and [`differences()`]
//! say what else is to be said of one; [`compile()`] resolves names of segments and satellites against the [`World`].

mod assigned;
mod atlas;
pub mod compile;
mod contradictions;
pub mod differences;
mod extent;
pub mod inactive;
pub mod load;
pub mod matcher;
pub mod model;
pub mod read;
pub mod warnings;
mod words;

pub use compile::{CompiledCheck, World, compile};
pub use differences::{Change, Difference, differences};
pub use inactive::{Inactive, inactive};
pub use load::{Load, PairLoad, PathLoad, load};
pub use matcher::Matcher;
pub use model::Policy;
pub use read::{PolicyFile, read};
pub use warnings::{Warning, warnings};
