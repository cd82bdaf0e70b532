//! DNS queries over TCP: responses are not truncated, and source addresses are harder to forge than
//! with UDP.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DnsError;

/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a query to `server`, and returns its response.
pub(super) async fn query(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursive: bool,
) -> Result<Message, DnsError> {
    let mut query = Message::query();
    query.metadata.recursion_desired = recursive;
    query.add_query(Query::query(name.clone(), kind));
    let octets = query.to_vec().map_err(|error| DnsError::Unusable(error.to_string()))?;
    let (answer, _) = exchange(server, query.metadata.id, &octets).await?;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(DnsError::Refused(server, code.to_string())),
    }
}

/// Sends a message, and returns the response: parsed, and as received.
pub(super) async fn exchange(
    server: SocketAddr,
    id: u16,
    message: &[u8],
) -> Result<(Message, Vec<u8>), DnsError> {
    let invalid = |error: String| DnsError::Server(server, error);
    let octets = timeout(TIMEOUT, converse(server, message))
        .await
        .map_err(|_| invalid("timed out".to_owned()))?;
    let octets = octets.map_err(|error| invalid(error.to_string()))?;
    let answer = Message::from_vec(&octets).map_err(|error| invalid(error.to_string()))?;
    if answer.metadata.id != id {
        return Err(invalid("the response is to another query".to_owned()));
    }
    Ok((answer, octets))
}

/// RFC 1035 §4.2.2: each message is preceded by its length.
async fn converse(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
