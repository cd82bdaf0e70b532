//! Where a repository is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest URL.
const MAX_URL: usize = 512;

/// The URL of a repository, over HTTPS or SSH, such as `https://git.example.com/team/shop.git` or
/// `ssh://git@git.example.com/team/shop.git`.
///
/// Git understands many more, of which some start programs. It has no password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitUrl {
    transport: Transport,
    /// With user, for SSH, and with port.
    authority: String,
    path: String,
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP over TLS.
    Https,
    /// SSH.
    Ssh,
}

/// A text is not the URL of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not the URL of a repository: write it as `https://HOST/PATH` or `ssh://USER@HOST/PATH`, \
     without a password"
)]
pub struct InvalidGitUrl;

// === impl GitUrl ===

impl GitUrl {
    /// How the repository is reached.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The scheme, the host and the port: what credentials are for.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}/", self.transport.scheme(), self.authority)
    }
}

impl TryFrom<String> for GitUrl {
    type Error = InvalidGitUrl;

    fn try_from(text: String) -> Result<Self, InvalidGitUrl> {
        let mut transports = [Transport::Https, Transport::Ssh].into_iter();
        let parts = |transport: Transport| {
            let rest = text.strip_prefix(transport.scheme())?.strip_prefix("://")?;
            let (authority, path) = rest.split_once('/')?;
            Some((transport, authority.to_owned(), path.to_owned()))
        };
        let (transport, authority, path) = transports.find_map(parts).ok_or(InvalidGitUrl)?;
        let (user, host) = match authority.split_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority.as_str()),
        };
        let is_valid_user = match user {
            None => true,
            Some(user) => transport == Transport::Ssh && is_word(user),
        };
        let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~+-".contains(&byte);
        let is_valid_path = !path.is_empty()
            && path.bytes().all(is_path)
            && path
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..") && !part.starts_with('-'));
        if text.len() > MAX_URL || !is_valid_user || !is_host(host) || !is_valid_path {
            return Err(InvalidGitUrl);
        }
        Ok(Self { transport, authority, path })
    }
}

impl From<GitUrl> for String {
    fn from(url: GitUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

// === impl Transport ===

impl Transport {
    /// The scheme of its URLs, and git's name of the protocol.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
        }
    }
}

/// A name that no program takes for an option (CVE-2017-1000117).
fn is_word(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(is_inner)
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    is_word(host) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_ssh_without_a_password_are_urls() {
        for good in [
            "https://git.example.com/team/shop.git",
            "https://127.0.0.1:8443/shop",
            "ssh://git@git.example.com:2222/team/shop.git",
            "ssh://git.example.com/~user/shop",
        ] {
            assert_eq!(GitUrl::try_from(good.to_owned()).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "shop.git",
            "/srv/shop.git",
            "file:///srv/shop.git",
            "git://git.example.com/shop.git",
            "http://git.example.com/shop.git",
            "ext::sh -c touch% x",
            "git@git.example.com:team/shop.git",
            "https://user:password@git.example.com/shop.git",
            "https://user@git.example.com/shop.git",
            "ssh://git:password@git.example.com/shop.git",
            "ssh://-oProxyCommand=x/shop.git",
            "ssh://git@-oProxyCommand=x/shop.git",
            "ssh://-l@git.example.com/shop.git",
            "https://git.example.com/",
            "https://git.example.com/../shop",
            "https://git.example.com/-shop",
            "https://git.example.com/shop?x=y",
            "https://git.example.com/shop#x",
            "https://git.example.com/a b",
            "https://git.example.com/$(x)",
            "https://git.example.com:0/shop",
            "https://git.example.com:x/shop",
            "https:///shop",
            "https://git.example.com/shop\n",
        ] {
            assert!(GitUrl::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
