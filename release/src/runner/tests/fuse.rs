//! Death at a chosen point: the call at it never returns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Notify;

use crate::cluster::{self, Cluster, Inspected, Mode, ObjectEvent, Owner};
use crate::feed::{Reading, Service};
use crate::gateway::{self, Gateway, WrittenSplit};
use crate::manifest::{ObjectRef, Setting, Values};
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::rollout::{self, Order};
use crate::state::{Readiness, State};
use crate::store::{
    Answer, AuditCursor, AuditEntry, By, Deployment, DeploymentOrder, Freeze, Look, NewRelease,
    PlacementStatus, Release, ReleaseCursor, ReleaseSummary, Rollout, RolloutChange, RolloutCursor,
    RolloutStep, SettingsChange, Step, Store, WantedRollouts, WatchedObject,
};

/// Counts points; the one after `left` others is the end.
pub(crate) struct Fuse {
    left: AtomicUsize,
    /// Whether calls that only read are no points.
    writes_only: bool,
    blown: Notify,
}

// === impl Fuse ===

impl Fuse {
    pub(crate) fn after(points: usize) -> Arc<Self> {
        let (left, blown) = (AtomicUsize::new(points), Notify::new());
        Arc::new(Self { left, writes_only: false, blown })
    }

    /// One for which only writes are points.
    pub(crate) fn on_writes_after(points: usize) -> Arc<Self> {
        let (left, blown) = (AtomicUsize::new(points), Notify::new());
        Arc::new(Self { left, writes_only: true, blown })
    }

    async fn burn_on_read(&self) {
        if !self.writes_only {
            self.burn().await;
        }
    }

    /// Waits for the end.
    pub(crate) async fn blown(&self) {
        self.blown.notified().await;
    }

    /// The points that are left.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }

    /// Passes a point, or never returns.
    pub(crate) async fn burn(&self) {
        let left =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// A store or a cluster with a point before and after each call.
pub(crate) struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    fuse: Arc<Fuse>,
}

// === impl Faulty ===

impl<T: ?Sized> Faulty<T> {
    pub(crate) fn new(inner: Arc<T>, fuse: &Arc<Fuse>) -> Self {
        Self { inner, fuse: Arc::clone(fuse) }
    }
}

macro_rules! call {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        Box::pin(async move {
            $self.fuse.burn().await;
            let answer = $self.inner.$method($($argument),*).await;
            $self.fuse.burn().await;
            answer
        })
    };
}

/// A call that changes nothing.
macro_rules! read {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        Box::pin(async move {
            $self.fuse.burn_on_read().await;
            let answer = $self.inner.$method($($argument),*).await;
            $self.fuse.burn_on_read().await;
            answer
        })
    };
}

mod builds;

impl<T: Store + ?Sized> Store for Faulty<T> {
    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn superseded(&self) -> BoxFuture<'_, ()> {
        self.inner.superseded()
    }

    fn create_release(&self, release: NewRelease) -> Answer<'_, ReleaseSummary> {
        call!(self.create_release(release))
    }

    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>> {
        read!(self.release(id))
    }

    fn made_release<'a>(&'a self, by: &'a By) -> Answer<'a, Option<ReleaseSummary>> {
        read!(self.made_release(by))
    }

    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>> {
        read!(self.releases(services, after, limit))
    }

    fn create_deployment(&self, order: DeploymentOrder) -> Answer<'_, Deployment> {
        call!(self.create_deployment(order))
    }

    fn deployment<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Deployment>> {
        read!(self.deployment(id))
    }

    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>> {
        read!(self.steps(id, after))
    }

    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        read!(self.deployments(placement, before, limit))
    }

    fn last_deployments<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        services: &'a [ServiceName],
    ) -> Answer<'a, Vec<Deployment>> {
        read!(self.last_deployments(environment, services))
    }

    fn open_deployments(&self) -> Answer<'_, Vec<DeploymentId>> {
        read!(self.open_deployments())
    }

    fn ready_deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: u32,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        read!(self.ready_deployments(placement, before, limit))
    }

    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>> {
        call!(self.advance(deployment, state, now))
    }

    fn begin_rollout<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: rollout::Rollout,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        call!(self.begin_rollout(deployment, state, now))
    }

    fn open_rollouts(&self) -> Answer<'_, Vec<DeploymentId>> {
        read!(self.open_rollouts())
    }

    fn rollout<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Rollout>> {
        read!(self.rollout(id))
    }

    fn rollouts<'a>(
        &'a self,
        wanted: &'a WantedRollouts,
        after: Option<&'a RolloutCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<Rollout>> {
        read!(self.rollouts(wanted, after, limit))
    }

    fn advance_rollout<'a>(
        &'a self,
        rollout: &'a Rollout,
        change: RolloutChange,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        call!(self.advance_rollout(rollout, change, now))
    }

    fn order_rollout<'a>(
        &'a self,
        id: &'a DeploymentId,
        order: Order,
        by: By,
    ) -> Answer<'a, Rollout> {
        call!(self.order_rollout(id, order, by))
    }

    fn rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        after: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        read!(self.rollout_steps(id, after))
    }

    fn last_rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        read!(self.last_rollout_steps(id, before, limit))
    }

    fn looks<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<Time>,
        limit: u32,
    ) -> Answer<'a, Vec<Look>> {
        read!(self.looks(id, before, limit))
    }

    fn pin_out<'a>(&'a self, rollout: &'a Rollout, by: By) -> Answer<'a, ()> {
        call!(self.pin_out(rollout, by))
    }

    fn plan<'a>(
        &'a self,
        deployment: &'a Deployment,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, bool> {
        call!(self.plan(deployment, namespace, objects))
    }

    fn inventory<'a>(&'a self, placement: &'a Placement) -> Answer<'a, Vec<ObjectRef>> {
        read!(self.inventory(placement))
    }

    fn pruned<'a>(
        &'a self,
        placement: &'a Placement,
        namespace: &'a str,
        objects: &'a [ObjectRef],
        watched_until: Time,
    ) -> Answer<'a, ()> {
        call!(self.pruned(placement, namespace, objects, watched_until))
    }

    fn watched_placements(&self) -> Answer<'_, Vec<Placement>> {
        read!(self.watched_placements())
    }

    fn watched<'a>(
        &'a self,
        placement: &'a Placement,
        now: Time,
    ) -> Answer<'a, Vec<WatchedObject>> {
        read!(self.watched(placement, now))
    }

    fn unwatch<'a>(&'a self, watched: &'a WatchedObject, now: Time) -> Answer<'a, ()> {
        call!(self.unwatch(watched, now))
    }

    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>> {
        read!(self.placements(services))
    }

    fn pin<'a>(&'a self, placement: &'a Placement, pinned: bool, by: By) -> Answer<'a, ()> {
        call!(self.pin(placement, pinned, by))
    }

    fn freeze<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        frozen: bool,
        expected: Option<String>,
        by: By,
    ) -> Answer<'a, ()> {
        call!(self.freeze(environment, frozen, expected, by))
    }

    fn values<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        service: Option<&'a ServiceName>,
    ) -> Answer<'a, Values> {
        read!(self.values(environment, service))
    }

    fn change_settings(&self, change: SettingsChange, by: By) -> Answer<'_, ()> {
        call!(self.change_settings(change, by))
    }

    fn settings<'a>(
        &'a self,
        release: &'a Release,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        read!(self.settings(release, environment))
    }

    fn ready_settings<'a>(
        &'a self,
        release: &'a ReleaseId,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        read!(self.ready_settings(release, environment))
    }

    fn frozen(&self) -> Answer<'_, Vec<Freeze>> {
        read!(self.frozen())
    }

    fn untagged<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        repository: &'a str,
    ) -> Answer<'a, Vec<(ServiceName, String)>> {
        read!(self.untagged(environment, repository))
    }

    fn tagged<'a>(
        &'a self,
        placement: &'a Placement,
        image: &'a str,
        tag: &'a str,
        by: By,
    ) -> Answer<'a, ()> {
        call!(self.tagged(placement, image, tag, by))
    }

    fn use_key<'a>(&'a self, key: &'a str, at: Time) -> Answer<'a, ()> {
        call!(self.use_key(key, at))
    }

    fn key_uses(&self) -> Answer<'_, BTreeMap<String, Time>> {
        read!(self.key_uses())
    }

    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>> {
        read!(self.audit(after, limit))
    }
}

impl Cluster for Faulty<dyn Cluster> {
    fn namespace<'a>(&'a self, environment: &'a EnvironmentName) -> cluster::Answer<'a, String> {
        read!(self.namespace(environment))
    }

    fn apply<'a>(
        &'a self,
        manifest: &'a Value,
        owner: &'a Owner,
        mode: Mode,
    ) -> cluster::Answer<'a, ()> {
        call!(self.apply(manifest, owner, mode))
    }

    fn observe<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> cluster::Answer<'a, Readiness> {
        read!(self.observe(namespace, objects))
    }

    fn prune<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        owner: &'a Owner,
    ) -> cluster::Answer<'a, ()> {
        call!(self.prune(namespace, object, owner))
    }

    fn inspect<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> cluster::Answer<'a, Vec<Option<Inspected>>> {
        read!(self.inspect(namespace, objects))
    }

    fn log<'a>(&'a self, namespace: &'a str, object: &'a ObjectRef) -> cluster::Answer<'a, String> {
        read!(self.log(namespace, object))
    }

    fn selecting<'a>(&'a self, namespace: &'a str) -> cluster::Answer<'a, Vec<Value>> {
        read!(self.selecting(namespace))
    }

    /// Nothing depends on it.
    fn report<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        event: &'a ObjectEvent,
    ) -> cluster::Answer<'a, ()> {
        read!(self.report(namespace, object, event))
    }
}

impl Gateway for Faulty<dyn Gateway> {
    fn split<'a>(&'a self, service: &'a Service) -> gateway::Answer<'a, WrittenSplit> {
        read!(self.split(service))
    }

    fn set_weight<'a>(
        &'a self,
        service: &'a Service,
        weight: u16,
        if_generation: u64,
    ) -> gateway::Answer<'a, ()> {
        call!(self.set_weight(service, weight, if_generation))
    }

    fn set_latency_threshold<'a>(
        &'a self,
        service: &'a Service,
        milliseconds: u64,
    ) -> gateway::Answer<'a, ()> {
        call!(self.set_latency_threshold(service, milliseconds))
    }

    fn read<'a>(&'a self, service: &'a Service, from: u64) -> gateway::Answer<'a, Vec<Reading>> {
        read!(self.read(service, from))
    }
}
