//! The sentences of the features, by what they are about.

mod accounts;
mod answers;
mod bots;
mod input;
mod payments;
mod platform;
mod time;
