//! A PostgreSQL server of the tests, in a temporary folder, with a database for each test.
//!
//! The tests of the crate `release` include this file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;

/// Starts a server in the folder `$1`, on its socket and the port `$2`, until the standard input ends,
/// as it does with the process of the tests. The server ignores what the terminal sends to them.
const SERVE: &str = r#"
set -eu
trap '' INT TERM HUP
bin=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -n 1)
PATH="$bin:$PATH"
cd "$1"
initdb --pgdata data --username postgres --auth scram-sha-256 --pwfile password --encoding UTF8 \
  --locale C.UTF-8 --no-sync > log 2>&1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem \
  -subj '/CN=PostgreSQL tests' -addext basicConstraints=critical,CA:TRUE 2>> log
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout tls.key -out tls.csr \
  -subj /CN=localhost 2>> log
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' > extensions
openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions \
  -out tls.crt 2>> log
chmod 600 tls.key
pg_ctl start --wait --silent --timeout 300 --pgdata data --log log --options "-p $2 -c fsync=off \
  -c max_connections=300 -c shared_buffers=32MB -c listen_addresses=127.0.0.1 -c ssl=on \
  -c ssl_cert_file=$1/tls.crt -c ssl_key_file=$1/tls.key -c unix_socket_directories=$1" > /dev/null
echo ready
read -r _ || true
pg_ctl stop --silent --mode immediate --pgdata data > /dev/null
cd /
rm -rf "$1"
"#;
/// The password of the server's user `postgres`.
pub(crate) const PASSWORD: &str = "a-password-of-the-tests";

/// A server. It stops, and its folder is removed, when this process ends.
pub(crate) struct Postgres {
    /// Where its socket is, and `ca.pem`: the authority of its certificate, which is for `localhost`.
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    /// Its input ends with this process.
    _process: Child,
}

/// A database of its own.
pub(crate) struct Database {
    server: &'static Postgres,
    pub(crate) name: String,
}

// === impl Postgres ===

impl Postgres {
    /// The server of all tests of this binary.
    pub(crate) async fn shared() -> &'static Self {
        static SERVER: OnceCell<Postgres> = OnceCell::const_new();
        let start =
            || async { tokio::task::spawn_blocking(Self::start).await.expect("PostgreSQL starts") };
        SERVER.get_or_init(start).await
    }

    fn start() -> Self {
        /// How often another port is tried: one that is free can be taken before the server has it.
        const ATTEMPTS: usize = 5;
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            match Self::try_start() {
                Ok(server) => return server,
                Err(log) => problem = log,
            }
        }
        panic!("PostgreSQL does not start: install it by tests/install\n{problem}")
    }

    /// Starts it, or returns its log.
    fn try_start() -> Result<Self, String> {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = probe.local_addr().expect("its address").port();
        drop(probe);
        // Others may not enter the folder of temporary files that the tests were given.
        let folder = tempfile::Builder::new().prefix("portcullis-postgres-").tempdir_in("/tmp");
        let folder = folder.expect("a temporary folder").keep();
        fs::write(folder.join("password"), PASSWORD).expect("the password");
        let mut command = Command::new("sh");
        // PostgreSQL refuses to run as root.
        if id(&["-u"]) == Some(0) {
            let user = id(&["-u", "postgres"]);
            let user = user.expect("the user postgres: install it by tests/install");
            chown(&folder, Some(user), Some(user)).expect("the folder is handed over");
            fs::set_permissions(folder.join("password"), fs::Permissions::from_mode(0o644))
                .expect("the password is readable");
            command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "sh"]);
        }
        command.args(["-c", SERVE, "serve"]).arg(&folder).arg(port.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its output");
        if line == "ready\n" {
            return Ok(Self { folder, port, _process: child });
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        child.wait().expect("it has ended");
        let _ = fs::remove_dir_all(&folder);
        Err(log)
    }

    /// A new database, in which text is not ordered by its bytes unless a column says so.
    pub(crate) async fn database(&'static self) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let database = Database { server: self, name: "postgres".to_owned() };
        let create = format!(
            "CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        );
        database.query(&create).await.expect("a database");
        Database { name, ..database }
    }
}

// === impl Database ===

impl Database {
    /// Its URL, by the socket of the server.
    pub(crate) fn url(&self) -> String {
        let folder = self.server.folder.to_string_lossy().replace('/', "%2F");
        let Self { server: Postgres { port, .. }, name } = self;
        format!("postgresql://postgres:{PASSWORD}@{folder}:{port}/{name}")
    }

    /// Runs statements by `psql`. Returns the rows, or the error.
    pub(crate) async fn query(&self, statements: &str) -> Result<String, String> {
        let mut command = tokio::process::Command::new("psql");
        command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--command"]);
        command.arg(statements).arg(self.url()).kill_on_drop(true);
        let output = command.output().await.expect("psql: install it by tests/install");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Ends the connection of a builder that holds the lock of the store.
    pub(crate) async fn take_lock_from(&self, application: &str) {
        let terminate = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE \
             locktype = 'advisory' AND datname = current_database() AND application_name = \
             '{application}'"
        );
        self.query(&terminate).await.expect("the connection ends");
    }
}

/// A number that `id` prints.
fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
