//! The code that build.rs makes of `schema/`. Its packages refer to each other by path, so the
//! modules here nest exactly as the packages do.

#![allow(
    unreachable_pub,
    clippy::large_enum_variant,
    reason = "generated code: the messages are what the schema says"
)]

pub mod client {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/realchat.client.v1.rs"));
    }
}

pub mod link {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/realchat.link.v1.rs"));
    }
}

pub mod record {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/realchat.record.v1.rs"));
    }
}
