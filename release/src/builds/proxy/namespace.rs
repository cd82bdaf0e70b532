//! A listener in the network namespace of a sandbox.
//!
//! A socket stays in the namespace that it was created in. A thread enters that of the sandbox, creates
//! the listener and ends: no other thread is ever there, and what is accepted is in the sandbox, while
//! connections to mirrors are not.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd;
use std::thread;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};
use rustix::process::Uid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use tokio::sync::oneshot;

/// Where the proxy is, as programs in the sandbox see it.
pub(super) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3128);

/// Listens in the network namespace of a process, whose user namespace this user owns.
///
/// # Errors
/// This process is not root, or has not the capability `SYS_ADMIN`.
pub(super) async fn listen(process: u32, owner: u32) -> io::Result<tokio::net::TcpListener> {
    let (sender, receiver) = oneshot::channel();
    let enter = move || {
        let _ = sender.send(listen_in(process, owner));
    };
    thread::Builder::new().name("build-proxy".to_owned()).spawn(enter)?;
    let listener = receiver.await.map_err(|_| io::ErrorKind::BrokenPipe)??;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Leaves the calling thread there.
fn listen_in(process: u32, owner: u32) -> io::Result<TcpListener> {
    // To open the namespace and to configure it takes capabilities in the user namespace of the
    // sandbox, which its owner has, also in a pod where root has few of them.
    become_user(owner)?;
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    // To enter it takes SYS_ADMIN here, too.
    become_user(0)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    become_user(owner)?;
    enable_loopback()?;
    TcpListener::bind(ADDRESS)
}

/// Changes the effective user of the calling thread alone. It returns to the one before, since the
/// real and the saved one stay.
fn become_user(user: u32) -> io::Result<()> {
    Ok(set_thread_res_uid(None, Uid::from_raw(user), None)?)
}

/// Enables the interface `lo` of the network namespace of the calling thread, by rtnetlink(7).
fn enable_loopback() -> io::Result<()> {
    /// A header and an `ifinfomsg`, in bytes.
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    /// `NLM_F_REQUEST` and `NLM_F_ACK`.
    const FLAGS: u16 = 1 | 4;
    /// `lo` is the first interface of each namespace.
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 1;
    const NLMSG_ERROR: [u8; 2] = 2_u16.to_ne_bytes();

    let mut request = Vec::new();
    request.extend_from_slice(&LENGTH.to_ne_bytes());
    request.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&FLAGS.to_ne_bytes());
    // Number and sender; of the interface, its family and type.
    request.extend_from_slice(&[0; 8 + 4]);
    request.extend_from_slice(&LOOPBACK.to_ne_bytes());
    // The flags, and which of them change.
    request.extend_from_slice(&IFF_UP.to_ne_bytes());
    request.extend_from_slice(&IFF_UP.to_ne_bytes());

    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 64];
    // The kernel has answered when it has the request.
    let (_, count) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    let answer = answer.get(..count).unwrap_or_default();
    let kind = answer.get(4..6).filter(|kind| *kind == NLMSG_ERROR);
    let error = answer.get(16..20).and_then(|error| <[u8; 4]>::try_from(error).ok());
    match kind.and(error).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::Error::other("the loopback interface cannot be enabled")),
    }
}
