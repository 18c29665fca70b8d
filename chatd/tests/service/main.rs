//! chatd as a whole: its process, its link, and a real PostgreSQL.

mod accounts;
mod api;
mod database;
mod rate;
mod support;
mod write;
