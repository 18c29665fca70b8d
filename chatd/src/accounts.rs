//! Who may sign in: users, passwords, devices, tokens and one-time codes.

mod codes;
mod devices;
mod identity;
mod passwords;
mod refresh;
mod secrets;
mod signing_key;
mod tokens;
mod users;

pub(crate) use codes::{issue_code, use_code};
pub(crate) use devices::{Device, device_for, list_devices, revoke_device};
pub(crate) use identity::Identity;
pub(crate) use passwords::{hash_password, verify_password};
pub(crate) use refresh::{issue_refresh_token, revoke_family, rotate};
pub(crate) use tokens::{Tokens, TokensSettings};
pub(crate) use users::{create_user, credentials, find_user, name_of};
