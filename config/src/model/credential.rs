//! Names in Secrets that hold credentials: their label, its values, and their entries.

use super::vocabulary::prefixed;

/// The label of Secrets that hold credentials; its value is the kind.
pub const CREDENTIAL: &str = prefixed!("credential");
/// The value of the label of Secrets with an application's key.
pub const CLIENT_KEY: &str = "client-key";
/// The value of the label of Secrets with a key that seals sessions.
pub const SESSION_KEY: &str = "session-key";
/// The value of the label of the Secret with the session keys that the gateway generates.
pub const SESSION_KEYS: &str = "session-keys";
/// The value of the label of Secrets with revoked sessions.
pub const REVOKED_SESSIONS: &str = "ended-sessions";
/// The entry of the application's name.
pub const APPLICATION: &str = "application";
/// The entry of a client key's hash.
pub const HASH: &str = "hash";
/// The entry of a session key.
pub const KEY: &str = "key";
/// The annotation with the expiry of a client key, after [`PREFIX`](super::vocabulary::PREFIX).
pub const EXPIRES: &str = "expires";
