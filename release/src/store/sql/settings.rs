//! Settings: the values of environments and services, and what releases declare.

use std::collections::BTreeMap;

use serde_json::Value;

use super::audit;
use super::query::{Connection, query};
use super::row::{self, get};
use crate::manifest::{
    Declaration, Layers, MAX_PROBLEMS, MAX_SETTINGS_SIZE, TemplateProblem, Values, setting_size,
};
use crate::model::{EnvironmentName, Placement, ServiceName};
use crate::store::{AuditEntry, By, SettingsChange, StoreError};

/// The values that are set for a service in an environment.
pub(super) async fn layers(
    connection: &mut Connection,
    placement: &Placement,
) -> Result<Layers, StoreError> {
    let Placement { service, environment } = placement;
    Ok(Layers {
        environment: values(connection, environment, None).await?,
        service: values(connection, environment, Some(service)).await?,
    })
}

/// The values of an environment, or of a service in it.
pub(super) async fn values(
    connection: &mut Connection,
    environment: &EnvironmentName,
    service: Option<&ServiceName>,
) -> Result<Values, StoreError> {
    let rows = query("SELECT name, value FROM settings WHERE environment = $1 AND service = $2")
        .bind(environment.as_str())
        .bind(service.map_or("", ServiceName::as_str))
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((get(row, "name")?, row::json(row, "value")?))).collect()
}

/// Replaces what the newest release of a service declares.
pub(super) async fn declare(
    connection: &mut Connection,
    service: &ServiceName,
    declared: &BTreeMap<String, Declaration>,
) -> Result<(), StoreError> {
    query("DELETE FROM declared_settings WHERE service = $1")
        .bind(service.as_str())
        .execute(&mut *connection)
        .await?;
    for (name, declaration) in declared {
        query("INSERT INTO declared_settings (service, name, declaration) VALUES ($1, $2, $3)")
            .bind(service.as_str())
            .bind(name)
            .bind(row::to_json(declaration)?)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Changes values, if the newest release of the service, or of any service, declares them so.
pub(super) async fn change(
    connection: &mut Connection,
    change: SettingsChange,
    by: &By,
) -> Result<(), StoreError> {
    let SettingsChange { environment, service, values } = change;
    let problems = problems(connection, service.as_ref(), &values).await?;
    if !problems.is_empty() {
        return Err(StoreError::Settings(problems));
    }
    let before = self::values(connection, &environment, service.as_ref()).await?;
    let column = service.as_ref().map_or("", ServiceName::as_str);
    for (name, value) in &values {
        query("DELETE FROM settings WHERE environment = $1 AND service = $2 AND name = $3")
            .bind(environment.as_str())
            .bind(column)
            .bind(name)
            .execute(&mut *connection)
            .await?;
        let Some(value) = value else { continue };
        query("INSERT INTO settings (environment, service, name, value) VALUES ($1, $2, $3, $4)")
            .bind(environment.as_str())
            .bind(column)
            .bind(name)
            .bind(row::to_json(value)?)
            .execute(&mut *connection)
            .await?;
    }
    let after = self::values(connection, &environment, service.as_ref()).await?;
    check_size(&before, &after)?;
    let subject = match &service {
        Some(service) => format!("{service}.{environment}"),
        None => environment.to_string(),
    };
    let entry = AuditEntry {
        service,
        environment: Some(environment),
        before: Some(row::to_json(&differing(&before, &after))?),
        after: Some(row::to_json(&differing(&after, &before))?),
        ..audit::entry(by, "settings.change", subject)?
    };
    audit::record(connection, by, &entry).await
}

/// Refuses values that have grown beyond what may be set. Fewer are accepted in any case.
fn check_size(before: &Values, after: &Values) -> Result<(), StoreError> {
    let size = |values: &Values| -> usize {
        values.iter().map(|(name, value)| setting_size(name, value)).sum()
    };
    if size(after) <= MAX_SETTINGS_SIZE.max(size(before)) {
        return Ok(());
    }
    Err(StoreError::Settings(vec![TemplateProblem::in_request(
        "/values".to_owned(),
        format!("all values together would have more than {MAX_SETTINGS_SIZE} bytes"),
        "remove values that no release declares any more: `portcullis env unset`",
    )]))
}

/// The values that are not the same in `others`.
fn differing<'v>(values: &'v Values, others: &Values) -> BTreeMap<&'v String, &'v Value> {
    values.iter().filter(|(name, value)| others.get(*name) != Some(value)).collect()
}

/// The problems of values to set, each with its place in the request.
async fn problems(
    connection: &mut Connection,
    service: Option<&ServiceName>,
    values: &BTreeMap<String, Option<Value>>,
) -> Result<Vec<TemplateProblem>, StoreError> {
    let mut problems = Vec::new();
    for (name, value) in values {
        let Some(value) = value else { continue };
        let rows = query(
            "SELECT declaration FROM declared_settings WHERE name = $1 \
             AND ($2 IS NULL OR service = $2)",
        )
        .bind(name)
        .bind(service.map(ServiceName::as_str))
        .fetch_all(&mut *connection)
        .await?;
        let declared: Vec<Declaration> =
            rows.iter().map(|row| row::json(row, "declaration")).collect::<Result<_, _>>()?;
        let found: Vec<Option<String>> =
            declared.iter().map(|declaration| declaration.kind.problem(value)).collect();
        let problem = match found.first() {
            None => Some(match service {
                Some(service) => format!("the newest release of {service} does not declare it"),
                None => "the newest release of no service declares it".to_owned(),
            }),
            // A value of an environment is for all services that declare the setting so.
            Some(first) if found.iter().all(Option::is_some) => first.clone(),
            Some(_) => None,
        };
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
        problems.extend(problem.map(|problem| {
            let help = "correct it, or create a release that declares it first";
            TemplateProblem::in_request(format!("/values/{name}"), problem, help)
        }));
    }
    Ok(problems)
}
