//! The log of a build: bounded, with known secrets masked, written while the build runs.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// What stands for a secret.
const MASK: &[u8] = b"***";
/// A shorter text is not taken for a secret: it could be anywhere.
const MIN_SECRET: usize = 6;
/// The longest line that is masked as a whole.
const MAX_LINE: usize = 64 * 1024;
/// How much of a text becomes the reason of a failure.
const MAX_REASON: usize = 300;

/// Texts that must not be in a log.
#[derive(Debug, Clone, Default)]
pub struct Mask(Vec<Vec<u8>>);

/// What a build waits for, such as a node with room for its pod.
#[derive(Debug, Default)]
pub struct Obstacle(Mutex<Option<String>>);

/// A log.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// How much may still be written.
    left: u64,
    max: u64,
    mask: Mask,
    /// The line that is not complete.
    pending: Vec<u8>,
    last: String,
    obstacle: Arc<Obstacle>,
}

// === impl Mask ===

impl Mask {
    /// Masks each line of these texts, and the password of `USER:PASSWORD`.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for secret in secrets {
            let password = secret.split_once(':').map(|(_, password)| password.trim_end());
            for text in secret.lines().map(str::trim).chain(password) {
                if text.len() >= MIN_SECRET {
                    texts.push(text.into());
                }
            }
        }
        // The longest first: one may be a part of another.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(texts)
    }

    fn longest(&self) -> usize {
        self.0.first().map_or(0, Vec::len)
    }

    fn apply(&self, line: &mut Vec<u8>) {
        for secret in &self.0 {
            let mut from = 0;
            while let Some(found) = position(line.get(from..).unwrap_or_default(), secret) {
                let start = from.saturating_add(found);
                line.splice(start..start.saturating_add(secret.len()), MASK.iter().copied());
                from = start.saturating_add(MASK.len());
            }
        }
    }
}

/// What a build wrote, as the reason of a failure: bounded, and without control characters, since
/// PostgreSQL stores no NUL.
pub(super) fn as_reason(text: &[u8]) -> String {
    let shown = text.get(..text.len().min(MAX_REASON)).unwrap_or_default();
    String::from_utf8_lossy(shown).replace(char::is_control, " ")
}

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

// === impl Obstacle ===

impl Obstacle {
    /// What it is; `None` if there is none.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it; returns whether it was another one.
    fn set(&self, what: Option<String>) -> bool {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current != what;
        *current = what;
        is_new
    }
}

// === impl Log ===

impl Log {
    /// Opens a log, at the end of what an earlier attempt has written.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn open(path: &Path, max: u64, mask: Mask) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).await?;
        let left = max.saturating_sub(file.metadata().await?.len());
        let (pending, last) = (Vec::new(), String::new());
        Ok(Self { file, left, max, mask, pending, last, obstacle: Arc::default() })
    }

    /// Writes a part of the output of a build: its whole lines, since no secret is longer than a line.
    pub async fn write(&mut self, part: &[u8]) {
        self.pending.extend_from_slice(part);
        let end = self.pending.iter().rposition(|octet| *octet == b'\n');
        if let Some(end) = end {
            let rest = self.pending.split_off(end.saturating_add(1));
            let lines = std::mem::replace(&mut self.pending, rest);
            self.append(lines).await;
        }
        if self.pending.len() > MAX_LINE {
            let mut line = std::mem::take(&mut self.pending);
            self.mask.apply(&mut line);
            // A secret may be incomplete at its end.
            let kept = line.len().saturating_sub(self.mask.longest());
            self.pending = line.split_off(kept);
            self.append(line).await;
        }
    }

    /// Writes a line of the builder's own, after what is pending.
    pub async fn note(&mut self, text: &str) {
        if !self.pending.is_empty() {
            self.write(b"\n").await;
        }
        self.write(format!("--- {text}\n").as_bytes()).await;
    }

    /// Says what the build waits for, such as a node with room for its pod; `None` once it goes on.
    pub async fn waits_for(&mut self, what: Option<&str>) {
        let what = what.map(|text| as_reason(text.as_bytes()));
        let is_new = self.obstacle.set(what.clone());
        if let Some(what) = what.filter(|_| is_new) {
            self.note(&format!("waiting: {what}")).await;
        }
    }

    /// What the build waits for now, until the log is closed.
    #[must_use]
    pub fn obstacle(&self) -> Weak<Obstacle> {
        Arc::downgrade(&self.obstacle)
    }

    /// Writes what is pending.
    pub async fn close(mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.append(pending).await;
        let _ = self.file.flush().await;
    }

    /// How much it has at most, in bytes.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The last line with a text.
    #[must_use]
    pub fn last(&self) -> &str {
        &self.last
    }

    async fn append(&mut self, mut lines: Vec<u8>) {
        self.mask.apply(&mut lines);
        let mut texts = lines.rsplit(|octet| *octet == b'\n');
        if let Some(last) = texts.find(|line| !line.trim_ascii().is_empty()) {
            self.last = as_reason(last.trim_ascii());
        }
        if self.left == 0 || lines.is_empty() {
            return;
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        if lines.len() > left {
            lines.truncate(left);
            let note =
                format!("--- the log has more than {} bytes: the rest is left out\n", self.max);
            let end = lines.iter().rposition(|octet| *octet == b'\n').map_or(0, |end| end + 1);
            lines.truncate(end);
            lines.extend_from_slice(note.as_bytes());
            self.left = 0;
        } else {
            self.left = self.left.saturating_sub(lines.len() as u64);
        }
        if let Err(error) = self.file.write_all(&lines).await {
            tracing::error!(%error, "failed to write the log of a build");
            self.left = 0;
        }
        // What a client that follows the log reads next.
        let _ = self.file.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(parts: &[&[u8]], max: u64, mask: Mask) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, max, mask).await.unwrap();
        for part in parts {
            log.write(part).await;
        }
        log.close().await;
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
    }

    #[tokio::test]
    async fn secrets_are_masked_wherever_the_parts_are_cut() {
        let mask = || Mask::new(["ci:pass-word".to_owned(), "-----KEY\nAAAABBBB\n".to_owned()]);
        let text = b"a pass-word b ci:pass-word AAAABBBB\nAAAAB\n";
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            let written = written(&[first, second], 1000, mask()).await;
            assert_eq!(written, "a *** b *** ***\nAAAAB\n", "{cut}");
        }
        let mut long = vec![b'x'; MAX_LINE];
        long.extend_from_slice(b"pass-");
        let written = written(&[&long, b"word and more"], 1 << 20, mask()).await;
        assert!(written.ends_with("x*** and more"), "{}", &written[MAX_LINE - 9..]);
        assert!(!written.contains("pass-"));
    }

    #[tokio::test]
    async fn the_last_line_has_no_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, 100, Mask::default()).await.unwrap();
        log.write(b"first\nHOME=/\0no \x1b[31mimage\n\n").await;
        assert_eq!(log.last(), "HOME=/ no  [31mimage");
    }

    #[tokio::test]
    async fn what_a_build_waits_for_is_said_once_and_known_until_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, 1000, Mask::default()).await.unwrap();
        let obstacle = log.obstacle();
        for what in [Some("a node"), Some("a node"), Some("an\nimage"), None] {
            log.waits_for(what).await;
            let expected = what.map(|text| text.replace('\n', " "));
            assert_eq!(obstacle.upgrade().unwrap().get(), expected);
        }
        log.close().await;
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, "--- waiting: a node\n--- waiting: an image\n");
        assert!(obstacle.upgrade().is_none(), "no build has it any more");
    }

    #[tokio::test]
    async fn a_log_is_bounded_over_all_attempts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for _ in 0..3 {
            let mut log = Log::open(&path, 100, Mask::default()).await.unwrap();
            for _ in 0..30 {
                log.write(b"0123456789\n").await;
            }
            log.note("the end").await;
            assert_eq!(log.last(), "--- the end");
            log.close().await;
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written.matches("0123456789").count(), 9, "{written}");
        assert_eq!(written.matches("the log has more than 100 bytes").count(), 1, "{written}");
        assert!(written.len() < 200, "{}", written.len());
    }
}
