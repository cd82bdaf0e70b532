//! One question to a DNS server and its answer, over TCP: nothing is cut short, and no address is
//! forged as easily as with UDP.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DnsError;

/// How long one exchange may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Asks `server` a question.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursive: bool,
) -> Result<Message, DnsError> {
    let mut question = Message::query();
    question.metadata.recursion_desired = recursive;
    question.add_query(Query::query(name.clone(), kind));
    let octets = question.to_vec().map_err(|error| DnsError::Unusable(error.to_string()))?;
    let (answer, _) = exchange(server, question.metadata.id, &octets).await?;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(DnsError::Refused(server, code.to_string())),
    }
}

/// Sends a message, and reads its answer: parsed, and as it came.
pub(super) async fn exchange(
    server: SocketAddr,
    id: u16,
    message: &[u8],
) -> Result<(Message, Vec<u8>), DnsError> {
    let wrong = |error: String| DnsError::Server(server, error);
    let octets = timeout(WITHIN, converse(server, message))
        .await
        .map_err(|_| wrong("not in time".to_owned()))?;
    let octets = octets.map_err(|error| wrong(error.to_string()))?;
    let answer = Message::from_vec(&octets).map_err(|error| wrong(error.to_string()))?;
    if answer.metadata.id != id {
        return Err(wrong("it is the answer to another question".to_owned()));
    }
    Ok((answer, octets))
}

/// RFC 1035 §4.2.2: each message has its length before it.
async fn converse(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
