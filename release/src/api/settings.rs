//! Settings of environments, and of services in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::deployments::authorize;
use super::environments::authorize_all;
use super::{App, IdempotencyKey, Page, Problem, by};
use crate::access::Principal;
use crate::manifest::{Declaration, MAX_SETTINGS, SettingType, Source, Values};
use crate::model::{EnvironmentName, Placement, Scope, ServiceName};
use crate::store::SettingsChange;

/// A setting of a service, and its value in an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettingStatus {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: SettingType,
    /// The value that the next deployment has; without it, a deployment is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// Where the value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Values of settings to set or to remove.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSettings {
    /// The environment.
    pub environment: EnvironmentName,
    /// The service; by default, all services of the environment that declare such a setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The values by name; `null` removes one.
    #[schema(value_type = Object)]
    pub values: BTreeMap<String, Option<Value>>,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// List the settings that a service's newest release declares, with their values in an environment
#[utoipa::path(
    get, path = "/api/v1/settings",
    params(
        ("service" = String, Query, description = "The service"),
        ("environment" = String, Query, description = "The environment"),
    ),
    responses((status = 200, description = "All of them", body = Page<SettingStatus>))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<SettingStatus>>, Problem> {
    let service: ServiceName = query.require("service")?;
    let environment: EnvironmentName = query.require("environment")?;
    let placement = Placement { service: service.clone(), environment };
    if !principal.may(Scope::Read, &placement) {
        return Ok(Answer(Page { items: Vec::new(), next: None }));
    }
    let newest = app.store.releases(Some(&[service]), None, 1).await?;
    let release = match newest.first() {
        Some(newest) => app.store.release(&newest.id).await?,
        None => None,
    };
    let declared = release.map(|release| release.template.settings()).unwrap_or_default();
    let Placement { service, environment } = &placement;
    let own = app.store.values(environment, Some(service)).await?;
    let all = app.store.values(environment, None).await?;
    let items = declared.into_iter().map(|declared| status(declared, &own, &all)).collect();
    Ok(Answer(Page { items, next: None }))
}

fn status((name, declared): (String, Declaration), own: &Values, all: &Values) -> SettingStatus {
    let Declaration { kind, default } = declared;
    let layers = [
        (own.get(&name).cloned(), Source::Service),
        (all.get(&name).cloned(), Source::Environment),
        (default, Source::Default),
    ];
    let found = layers.into_iter().find_map(|(value, source)| Some((value?, source)));
    let (value, source) = found.unzip();
    SettingStatus { name, kind, value, source }
}

/// Set and remove values of settings
#[utoipa::path(
    patch, path = "/api/v1/settings", request_body = NewSettings,
    responses(
        (status = 204, description = "Done. Later deployments have them"),
        (status = 403, body = Problem,
            description = "It needs the scope deploy, or for all services the scope admin"),
        (status = 422, body = Problem,
            description = "No newest release declares such a setting, or there are too many"),
    )
)]
pub(super) async fn change(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json { value, fingerprint }: Json<NewSettings>,
) -> Result<StatusCode, Problem> {
    let NewSettings { environment, service, values, reason } = value;
    let by = by(&principal, reason, IdempotencyKey(None), &fingerprint)?;
    match &service {
        Some(service) => {
            let placement =
                Placement { service: service.clone(), environment: environment.clone() };
            authorize(&principal, Scope::Deploy, "deploy", &placement)?;
        }
        None => authorize_all(&principal, &environment)?,
    }
    if values.len() > MAX_SETTINGS {
        return Err(Problem::invalid(
            "/values",
            format!("there are more than {MAX_SETTINGS} values"),
        ));
    }
    app.store.change_settings(SettingsChange { environment, service, values }, by).await?;
    Ok(StatusCode::NO_CONTENT)
}
