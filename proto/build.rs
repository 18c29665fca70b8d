//! Compiles schema/*.proto without an installed protoc, and gives the client protocol its JSON form.

use prost_build::Config;

const CLIENT_PACKAGE: &str = "realchat.client.v1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let schemas = ["client.proto", "link.proto", "record.proto"];
    let descriptors = protox::compile(schemas, ["schema"])?;
    let mut config = Config::new();
    let package = format!(".{CLIENT_PACKAGE}");
    config.message_attribute(
        &package,
        "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]",
    );
    config.enum_attribute(
        &package,
        "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"snake_case\")]",
    );
    for file in descriptors.file.iter().filter(|file| file.package() == CLIENT_PACKAGE) {
        for message in &file.message_type {
            for field in &message.field {
                let path = format!("{package}.{}.{}", message.name(), field.name());
                if let Some(attribute) = json_form(field) {
                    config.field_attribute(path, attribute);
                }
            }
            for oneof in &message.oneof_decl {
                // No leading dot: a full path would match the oneof's variants, too.
                let path = format!("{}.{}", message.name(), oneof.name());
                config.field_attribute(path, "#[serde(flatten)]");
            }
        }
    }
    config.compile_fds(descriptors)?;
    Ok(())
}

/// Ids are UUID text in JSON; the one opaque byte string, the watermark, is hexadecimal.
fn json_form(field: &prost_types::FieldDescriptorProto) -> Option<&'static str> {
    use prost_types::field_descriptor_proto::{Label, Type};
    if field.r#type() != Type::Bytes {
        return None;
    }
    Some(match (field.name(), field.label()) {
        ("watermark", _) => "#[serde(with = \"crate::json::hex\")]",
        (_, Label::Repeated) => "#[serde(with = \"crate::json::ids\")]",
        _ => "#[serde(with = \"crate::json::id\")]",
    })
}
