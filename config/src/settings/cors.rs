//! Settings of cross-origin resource sharing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::OriginPattern;

/// Which web pages of other origins may call services (Fetch standard, "CORS protocol").
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CorsSettings {
    /// The origins whose preflights are answered, on every host alike, such as
    /// `https://app.example.com`, `https://*.example.com` or `*`. Which responses their scripts may
    /// read, services choose among them by `portcullis.dev/cors-origins`. By default, none.
    #[schemars(with = "Vec<String>")]
    pub origins: Vec<OriginPattern>,
}
