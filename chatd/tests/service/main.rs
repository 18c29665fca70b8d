//! chatd as a whole: its process, its link, and a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod about;
mod accounts;
mod api;
mod database;
mod failpoints;
mod immense;
mod rate;
mod receipts;
mod remembered;
mod support;
mod trouble;
mod write;
