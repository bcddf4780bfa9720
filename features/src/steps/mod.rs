//! The sentences of the features, by what they are about.

#![expect(clippy::unused_async, reason = "a step has one form, whether or not its sentence has to wait")]
#![expect(clippy::used_underscore_binding, reason = "a name in a sentence binds its step, which may not need it")]

mod accounts;
mod answers;
mod bots;
mod input;
mod payments;
mod platform;
mod time;
