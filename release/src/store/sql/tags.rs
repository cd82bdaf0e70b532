//! Tags that follow what runs.

use super::audit;
use super::query::{Connection, query};
use super::row::{self, get};
use crate::model::{EnvironmentName, Placement, ServiceName};
use crate::settings::SERVICE;
use crate::store::{AuditEntry, By, MAX_PAGE, StoreError};

/// Services whose tag in an environment is behind, with the image that runs in the `repository` of
/// the service. Not always the first ones: those whose tags cannot be moved must not be in the way of
/// the others.
pub(super) async fn pending(
    connection: &mut Connection,
    environment: &EnvironmentName,
    repository: &str,
) -> Result<Vec<(ServiceName, String)>, StoreError> {
    let rows = query(
        "SELECT placements.service, releases.image FROM placements \
         JOIN releases ON releases.service = placements.service \
         AND releases.number = placements.running \
         LEFT JOIN tagged ON tagged.service = placements.service \
         AND tagged.environment = placements.environment \
         WHERE placements.environment = $1 \
         AND (tagged.image IS NULL OR tagged.image <> releases.image) \
         AND substr(releases.image, 1, length(replace($3, $4, placements.service)) + 1) \
         = replace($3, $4, placements.service) || '@' \
         ORDER BY random() LIMIT $2",
    )
    .bind(environment.as_str())
    .bind(i64::from(MAX_PAGE))
    .bind(repository)
    .bind(SERVICE)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row::service(row)?, get(row, "image")?))).collect()
}

/// Records that a tag was moved.
pub(super) async fn moved(
    connection: &mut Connection,
    placement: &Placement,
    image: &str,
    tag: &str,
    by: &By,
) -> Result<(), StoreError> {
    let Placement { service, environment } = placement;
    let before: Option<String> =
        query("SELECT image FROM tagged WHERE service = $1 AND environment = $2")
            .bind(service.as_str())
            .bind(environment.as_str())
            .fetch_optional_scalar(&mut *connection)
            .await?;
    query(
        "INSERT INTO tagged (service, environment, image) VALUES ($1, $2, $3) \
         ON CONFLICT (service, environment) DO UPDATE SET image = excluded.image",
    )
    .bind(service.as_str())
    .bind(environment.as_str())
    .bind(image)
    .execute(&mut *connection)
    .await?;
    let entry = AuditEntry {
        service: Some(service.clone()),
        environment: Some(environment.clone()),
        before,
        after: Some(image.to_owned()),
        ..audit::entry(by, "image.tag", tag.to_owned())?
    };
    audit::record(connection, by, &entry).await
}
