//! Instructions and allocations of one request, and of its steps. `benches/counts` runs this under
//! valgrind, and compares with what is committed.
#![allow(missing_docs, reason = "gungraun's macros write public functions without documentation")]

use gungraun::prelude::*;
use gungraun::{Callgrind, Dhat};
use portcullis_proxy::gateway::counted::{Access, Connection, Piece, Step, Version};

#[library_benchmark]
#[bench::open(Connection::new(Version::Http1, Access::Open))]
#[bench::token(Connection::new(Version::Http1, Access::Token))]
fn http1(mut connection: Connection) -> Connection {
    connection.run();
    connection
}

#[library_benchmark]
#[bench::open(Connection::new(Version::Http2, Access::Open))]
#[bench::token(Connection::new(Version::Http2, Access::Token))]
fn http2(mut connection: Connection) -> Connection {
    connection.run();
    connection
}

#[library_benchmark]
#[bench::parse(Piece::new(Step::Parse))]
#[bench::normalize(Piece::new(Step::Normalize))]
#[bench::authenticate(Piece::new(Step::Authenticate))]
#[bench::route(Piece::new(Step::Route))]
#[bench::choose(Piece::new(Step::Choose))]
#[bench::headers(Piece::new(Step::Headers))]
fn step(mut piece: Piece) -> Piece {
    piece.run();
    piece
}

library_benchmark_group!(name = requests, benchmarks = [http1, http2, step]);

main!(
    config = LibraryBenchmarkConfig::default()
        // Collecting stops where the client and the backend begin.
        .tool(Callgrind::with_args([
            "toggle-collect=*::counted::fixture::poll_peer*",
            "cache-sim=no"
        ]))
        // An allocation is counted if it was made below the bench's function, which is far away.
        .tool(Dhat::with_args(["num-callers=300"])),
    library_benchmark_groups = requests
);
