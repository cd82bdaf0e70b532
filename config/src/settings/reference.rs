//! The reference of the configuration file, generated from the types: a JSON Schema and a page.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::Settings;

/// The JSON Schema (draft 2020-12) of the configuration file.
#[must_use]
pub fn schema() -> Value {
    schemars::schema_for!(Settings).to_value()
}

/// The page about the configuration file, in Markdown: a table per section, a line per key.
#[must_use]
pub fn markdown() -> String {
    let schema = schema();
    let page = Page {
        definitions: schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default(),
    };
    let mut rows = Vec::new();
    page.rows("", &schema, &Value::Null, &mut rows);
    let mut text = INTRODUCTION.to_owned();
    let mut section = None;
    for row in rows {
        let name =
            row.key.split(['.', '[']).next().filter(|name| *name != row.key).map(ToOwned::to_owned);
        if section != Some(name.clone()) {
            let title =
                name.as_ref().map_or_else(|| "Top level".to_owned(), |name| format!("`{name}`"));
            let _ = write!(
                text,
                "\n## {title}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
            );
            section = Some(name);
        }
        let _ =
            writeln!(text, "| `{}` | {} | {} | {} |", row.key, row.kind, row.default, row.meaning);
    }
    text
}

const INTRODUCTION: &str = "<!-- Generated from the types in config/src/settings.rs: \
                            `PORTCULLIS_UPDATE=1 cargo test -p portcullis-config reference` \
                            regenerates it. -->

# The configuration file

`portcullis gateway --config FILE` reads it once, at its start; `portcullis check FILE` reports \
                            all problems. It is YAML (or JSON), and an
unknown key is an error. Relative paths in it are relative to the file's own folder. A duration is \
                            written as in Gateway API: `1h30m`, `10s`, `500ms`.
[configuration.schema.json](configuration.schema.json) is its JSON Schema, for completion and \
                            validation in editors.

The minimal configuration:

```yaml
zone: apps.example.com
source:
  kubernetes: {}
certificates:
  - secret: {namespace: portcullis, name: portcullis-tls}
```

## Proxies

Connections to issuers, GitHub, certificate authorities and webhooks go through the proxy that the
environment sets when the gateway starts; `portcullis login` and `portcullis token` do the same.

<!-- untested: tests/e2e/access/outbound_proxy.rs sets both for a gateway -->
```sh
HTTPS_PROXY=http://proxy.example.com:3128
NO_PROXY=.svc,.cluster.local,10.0.0.0/8
```

| variable | meaning |
| --- | --- |
| `HTTPS_PROXY`, else `ALL_PROXY` | The proxy's URL, `http://` or `https://`. `http://USER:PASSWORD@…` sends credentials (Basic); percent-encode special characters in them. |
| `NO_PROXY` | Hosts that are connected to directly, separated by commas: names, which include all subdomains; IP addresses; networks; or `*`. |

Variables in lower case are used where there are none in upper case. Loopback addresses and `localhost` are
always connected to directly; `HTTP_PROXY` has no effect, because plain HTTP is allowed to them only.
The certificate of an `https://` proxy is verified against the same authorities as that of the server
behind it. Where a proxy is invalid or refuses, the connection fails: there is no fallback to a direct
one.

Connections to pods and to DNS servers never go through a proxy, nor does the API server of the
cluster that the gateway runs in. With a kubeconfig, the `proxy-url` of its cluster applies, else
`HTTPS_PROXY` (with a scheme) and `NO_PROXY`.
";

/// One line of the page.
struct Row {
    key: String,
    kind: String,
    default: String,
    meaning: String,
}

struct Page {
    definitions: Map<String, Value>,
}

// === impl Page ===

impl Page {
    /// Adds the rows of all keys below `schema`, first those of simple values, then of sections.
    fn rows(&self, prefix: &str, schema: &Value, default: &Value, rows: &mut Vec<Row>) {
        let schema = self.resolve(schema);
        let required: Vec<&str> = strings(schema.get("required"));
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut sections = Vec::new();
        for (name, property) in properties.into_iter().flatten() {
            let key = format!("{prefix}{name}");
            let default =
                default.get(name).or_else(|| property.get("default")).unwrap_or(&Value::Null);
            if self.is_section(property) {
                sections.push((key, property, default));
            } else {
                rows.push(self.row(key, property, default, required.contains(&name.as_str())));
            }
        }
        for (key, property, default) in sections {
            self.section(&key, property, default, rows);
        }
    }

    fn section(&self, key: &str, property: &Value, default: &Value, rows: &mut Vec<Row>) {
        let schema = self.resolve(property);
        if let Some(items) = schema.get("items") {
            return self.section(&format!("{key}[]"), items, &Value::Null, rows);
        }
        match schema.get("oneOf").and_then(Value::as_array) {
            Some(variants) => {
                for variant in variants {
                    self.variant(key, variant, rows);
                }
            }
            None => self.rows(&format!("{key}."), schema, default, rows),
        }
    }

    /// Adds the rows of a variant, whose name is a key and whose meaning is beside it.
    fn variant(&self, key: &str, variant: &Value, rows: &mut Vec<Row>) {
        for (name, property) in
            variant.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            let key = format!("{key}.{name}");
            if self.is_section(property) {
                self.section(&key, property, &Value::Null, rows);
            } else {
                rows.push(Row {
                    meaning: self.meaning(variant),
                    ..self.row(key, property, &Value::Null, false)
                });
            }
        }
    }

    fn row(&self, key: String, property: &Value, default: &Value, required: bool) -> Row {
        let default = match default {
            Value::Null if required => "required".to_owned(),
            Value::Null => "–".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let meaning = self.meaning(property).replace('\n', " ").replace('|', "\\|");
        Row { kind: self.kind(property), meaning, default, key }
    }

    fn meaning(&self, property: &Value) -> String {
        let own = |schema: &Value| {
            schema.get("description").and_then(Value::as_str).map(ToOwned::to_owned)
        };
        let text = own(property).or_else(|| own(self.resolve(property))).unwrap_or_default();
        let values: Vec<String> = self
            .constants(property)
            .into_iter()
            .map(|(name, meaning)| format!("`{name}`: {}", meaning.trim_end_matches('.')))
            .collect();
        if values.is_empty() { text } else { format!("{text} {}.", values.join("; ")) }
    }

    fn kind(&self, property: &Value) -> String {
        let constants: Vec<String> =
            self.constants(property).iter().map(|(name, _)| format!("`{name}`")).collect();
        if !constants.is_empty() {
            return constants.join(", ");
        }
        let schema = self.resolve(property);
        if let Some(items) = schema.get("items") {
            return format!("list of {}", self.kind(items));
        }
        let types = match schema.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            types => strings(types),
        };
        if schema.get("pattern").is_some() {
            return "duration".to_owned();
        }
        let minimum = schema.get("minimum").and_then(Value::as_u64);
        let words = types.iter().map(|kind| match (*kind, minimum) {
            ("integer", Some(minimum)) => format!("whole number from {minimum} on"),
            ("integer", None) => "whole number".to_owned(),
            ("string", _) => "text".to_owned(),
            ("boolean", _) => "`true`, `false`".to_owned(),
            ("null", _) => "`null`".to_owned(),
            (other, _) => other.to_owned(),
        });
        words.collect::<Vec<_>>().join(" or ")
    }

    /// The values of an enumeration, with their meanings.
    fn constants(&self, property: &Value) -> Vec<(String, String)> {
        let variants = self.resolve(property).get("oneOf").and_then(Value::as_array);
        let text =
            |schema: &Value, key| schema.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        variants
            .into_iter()
            .flatten()
            .filter_map(|variant| {
                Some((text(variant, "const")?, text(variant, "description").unwrap_or_default()))
            })
            .collect()
    }

    fn is_section(&self, property: &Value) -> bool {
        let schema = self.resolve(property);
        let items = schema.get("items").is_some_and(|items| self.is_section(items));
        items
            || schema.get("properties").is_some()
            || schema.get("oneOf").is_some() && self.constants(property).is_empty()
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        // An optional value is written as any of its schema and null.
        let schema = schema.get("anyOf").and_then(|any| any.get(0)).unwrap_or(schema);
        let name = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.definitions.get(name)).unwrap_or(schema)
    }
}

fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// With `PORTCULLIS_UPDATE` set, writes the file instead.
    fn compare(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        if std::env::var_os("PORTCULLIS_UPDATE").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "docs/{name} differs from the types: run with PORTCULLIS_UPDATE=1 to regenerate it"
        );
    }

    #[test]
    fn the_reference_page_matches_the_types() {
        compare("configuration.md", &markdown());
    }

    #[test]
    fn the_schema_matches_the_types() {
        compare(
            "configuration.schema.json",
            &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"),
        );
    }

    #[test]
    fn every_key_has_a_meaning() {
        for line in markdown().lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "{line}");
        }
    }
}
