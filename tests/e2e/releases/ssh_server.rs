//! `sshd` for the current user, with the repositories of a [`GitServer`](super::git_server).

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::eventually;

/// A running server. Killed on drop.
pub(super) struct SshServer {
    _child: Child,
    folder: TempDir,
    user: String,
    port: u16,
}

// === impl SshServer ===

impl SshServer {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        for key in ["host", "other", "client"] {
            run(
                "ssh-keygen",
                &["-q", "-t", "ed25519", "-N", "", "-f", &path(key).to_string_lossy()],
            );
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let port = port.expect("a free port").port();
        for (file, key) in [("known_hosts", "host"), ("wrong_hosts", "other")] {
            let public = fs::read_to_string(path(&format!("{key}.pub"))).expect("a public key");
            fs::write(path(file), format!("[127.0.0.1]:{port} {public}")).expect("the known hosts");
        }
        let configuration = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin \
             prohibit-password\n",
            path("host").display(),
            path("client.pub").display(),
        );
        fs::write(path("sshd_config"), configuration).expect("the configuration");
        // Of Debian's sshd, for root.
        let _ = fs::create_dir("/run/sshd");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(path("sshd_config"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("sshd is installed");
        eventually("sshd listens", || async {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let user = run("id", &["-un"]);
        Self { _child: child, folder, user, port }
    }

    /// The URL of a repository in a folder.
    pub(super) fn url(&self, repository: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.user, self.port, repository.display())
    }

    /// A file: the key `client`, and `known_hosts` or `wrong_hosts`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
