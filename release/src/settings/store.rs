//! Where the record of releases is kept.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Where the record of releases is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// In a SQLite file; created if it does not exist.
    File(PathBuf),
    /// In a PostgreSQL database.
    Postgres(PostgresSettings),
}

/// A PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresSettings {
    /// A file with its URL, which has the password.
    pub url_file: PathBuf,
    /// The authorities of its certificate in PEM, beside those of browsers.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
}

// === impl StoreSettings ===

impl StoreSettings {
    /// Makes relative paths relative to the folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        match self {
            Self::File(path) => resolve(path),
            Self::Postgres(postgres) => {
                resolve(&mut postgres.url_file);
                postgres.certificate_authorities.iter_mut().for_each(resolve);
            }
        }
    }
}

impl<'de> Deserialize<'de> for StoreSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StoreVisitor)
    }
}

struct StoreVisitor;

impl<'de> Visitor<'de> for StoreVisitor {
    type Value = StoreSettings;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the path of a file, or `postgresql` with `urlFile`")
    }

    fn visit_str<E: de::Error>(self, path: &str) -> Result<StoreSettings, E> {
        Ok(StoreSettings::File(path.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StoreSettings, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Server {
            postgresql: PostgresSettings,
        }
        let Server { postgresql } = Server::deserialize(MapAccessDeserializer::new(map))?;
        Ok(StoreSettings::Postgres(postgresql))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<StoreSettings, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_store_is_a_file_or_a_database() {
        assert_eq!(read("releases.db"), Ok(StoreSettings::File("releases.db".into())));
        let mut store = read("postgresql: { urlFile: url }").unwrap();
        store.resolve(Path::new("/etc/builder"));
        let url_file = "/etc/builder/url".into();
        let expected = PostgresSettings { url_file, certificate_authorities: None };
        assert_eq!(store, StoreSettings::Postgres(expected));
        for (yaml, expected) in [
            ("postgresql: { url: postgresql://u:p@h/d }", "urlFile"),
            ("postgres: { urlFile: url }", "postgresql"),
            ("[releases.db]", "the path of a file, or `postgresql` with `urlFile`"),
        ] {
            let problem = read(yaml).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
