//! The engine of backups: a directory or a database into a repository of restic's format on any object store, and back.
//!
//! One [`Backups`] is one repository, which is everything under one prefix of a store. What it does is a method of it: each
//! takes the repository's [lock], derives its [key](keys) from a ring, does its work through `rustic_core`, and says
//! what came of it in a [report] that serializes to JSON. The program of the same name is these methods, with
//! [settings] from the environment and an [exit code](ExitCode) for every kind of failure.
//!
//! - [`Backups::save`] reads a directory. A snapshot counts only with its [manifest], which is written last and has the
//!   SHA-256 of every file.
//! - [`Backups::restore`] writes into an empty directory and then compares it with the manifest.
//! - [`Backups::verify`] reads everything to its end.
//! - [`Backups::forget`] removes what the [retention] rules do not keep.
//! - [`S3Settings::set_up`](store::S3Settings::set_up) makes a bucket what one for backups has to be.
//! - [`Backups::dump_database`] and [`Backups::restore_database`] do the same for a [database].

mod bucket;
mod clock;
pub mod database;
mod error;
mod forget;
pub mod job;
pub mod keys;
pub mod lock;
pub mod manifest;
pub mod report;
mod repository;
mod restore;
pub mod retention;
mod save;
pub mod settings;
mod source;
pub mod store;
mod verify;

pub use error::{BackupError, ExitCode};
pub use forget::ForgetRequest;
pub use repository::Backups;
pub use restore::{Depth, RestoreRequest, compare};
pub use save::SaveRequest;
pub use verify::VerifyRequest;
