//! Dynamic updates (RFC 2136), signed by TSIG (RFC 8945).

use std::fs;
use std::net::SocketAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm as Algorithm;
use hickory_proto::rr::{Name, RData, Record, RecordSet, RecordType, TSigner};
use portcullis_config::settings::acme::{Rfc2136Settings, TsigAlgorithm};
use portcullis_config::unix_time::seconds;

use super::DnsError;
use super::message::{exchange, query};

/// The tolerated clock difference, in seconds (RFC 8945 §10).
const FUDGE: u16 = 300;

/// A server that accepts updates.
pub(super) struct Update {
    server: SocketAddr,
    signer: TSigner,
    ttl: u32,
}

// === impl Update ===

impl Update {
    pub(super) fn new(settings: &Rfc2136Settings, ttl: u32) -> Result<Self, DnsError> {
        let path = settings.key_file.display();
        let text = fs::read_to_string(&settings.key_file)
            .map_err(|error| DnsError::Unusable(format!("failed to read {path}: {error}")))?;
        // The error has no details: these could contain a part of the key.
        let key = STANDARD
            .decode(text.trim())
            .map_err(|_| DnsError::Unusable(format!("{path} does not contain a key in base64")))?;
        let algorithm = match settings.algorithm {
            TsigAlgorithm::HmacSha256 => Algorithm::HmacSha256,
            TsigAlgorithm::HmacSha384 => Algorithm::HmacSha384,
            TsigAlgorithm::HmacSha512 => Algorithm::HmacSha512,
        };
        let signer = TSigner::new(key, algorithm, super::name(&settings.key_name)?, FUDGE);
        let signer = signer.map_err(|error| DnsError::Unusable(error.to_string()))?;
        Ok(Self { server: settings.server, signer, ttl })
    }

    pub(super) async fn present(&self, owner: &Name, value: &str) -> Result<(), DnsError> {
        let zone = self.zone(owner).await?;
        self.send(update_message::append(self.records(owner, value), zone, false, false)).await
    }

    /// Removes this value only: other orders may have others.
    pub(super) async fn remove(&self, owner: &Name, value: &str) -> Result<(), DnsError> {
        let zone = self.zone(owner).await?;
        self.send(update_message::delete_by_rdata(self.records(owner, value), zone, false)).await
    }

    fn records(&self, owner: &Name, value: &str) -> RecordSet {
        let data = RData::TXT(TXT::new(vec![value.to_owned()]));
        RecordSet::from(Record::from_rdata(owner.clone(), self.ttl, data))
    }

    /// The server's zone of the name.
    async fn zone(&self, owner: &Name) -> Result<Name, DnsError> {
        let mut zone = owner.clone();
        while zone.num_labels() > 0 {
            let answer = query(self.server, &zone, RecordType::SOA, false).await?;
            if answer
                .answers
                .iter()
                .any(|record| record.name == zone && record.record_type() == RecordType::SOA)
            {
                return Ok(zone);
            }
            zone = zone.base_name();
        }
        Err(DnsError::NoZone(owner.to_ascii()))
    }

    async fn send(&self, mut message: Message) -> Result<(), DnsError> {
        let unusable = |error: hickory_proto::ProtoError| DnsError::Unusable(error.to_string());
        let verifier =
            message.finalize(&self.signer, seconds(SystemTime::now())).map_err(unusable)?;
        let octets = message.to_vec().map_err(unusable)?;
        let (answer, raw) = exchange(self.server, message.metadata.id, &octets).await?;
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(DnsError::Refused(self.server, answer.metadata.response_code.to_string()));
        }
        // RFC 8945 §5.3: a response that is not signed by the same key may be forged.
        let verified = verifier.map(|mut verifier| verifier.verify(&raw));
        match verified {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                Err(DnsError::Server(self.server, format!("its signature is invalid: {error}")))
            }
            None => {
                Err(DnsError::Server(self.server, "its signature could not be verified".to_owned()))
            }
        }
    }
}
