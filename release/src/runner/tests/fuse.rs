//! Death at a chosen point: the call at it never returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::sync::Notify;

use crate::cluster::{self, Cluster, Mode, Owner};
use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::state::{Readiness, State};
use crate::store::{
    Answer, AuditCursor, AuditEntry, By, Deployment, DeploymentOrder, Freeze, NewRelease,
    PlacementStatus, Release, ReleaseCursor, ReleaseSummary, Step, Store,
};

/// Counts points; the one after `left` others is the end.
pub(super) struct Fuse {
    left: AtomicUsize,
    blown: Notify,
}

// === impl Fuse ===

impl Fuse {
    pub(super) fn after(points: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(points), blown: Notify::new() })
    }

    /// Waits for the end.
    pub(super) async fn blown(&self) {
        self.blown.notified().await;
    }

    async fn burn(&self) {
        let left =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// A store or a cluster with a point before and after each call.
pub(super) struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    fuse: Arc<Fuse>,
}

// === impl Faulty ===

impl<T: ?Sized> Faulty<T> {
    pub(super) fn new(inner: Arc<T>, fuse: &Arc<Fuse>) -> Self {
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

impl Store for Faulty<dyn Store> {
    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn create_release(&self, release: NewRelease) -> Answer<'_, ReleaseSummary> {
        call!(self.create_release(release))
    }

    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>> {
        call!(self.release(id))
    }

    fn made_release<'a>(&'a self, by: &'a By) -> Answer<'a, Option<ReleaseSummary>> {
        call!(self.made_release(by))
    }

    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>> {
        call!(self.releases(services, after, limit))
    }

    fn create_deployment(&self, order: DeploymentOrder) -> Answer<'_, Deployment> {
        call!(self.create_deployment(order))
    }

    fn deployment<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Deployment>> {
        call!(self.deployment(id))
    }

    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>> {
        call!(self.steps(id, after))
    }

    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        call!(self.deployments(placement, before, limit))
    }

    fn open_deployments(&self) -> Answer<'_, Vec<Deployment>> {
        call!(self.open_deployments())
    }

    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>> {
        call!(self.advance(deployment, state, now))
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
        call!(self.inventory(placement))
    }

    fn pruned<'a>(&'a self, placement: &'a Placement, objects: &'a [ObjectRef]) -> Answer<'a, ()> {
        call!(self.pruned(placement, objects))
    }

    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>> {
        call!(self.placements(services))
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

    fn frozen(&self) -> Answer<'_, Vec<Freeze>> {
        call!(self.frozen())
    }

    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>> {
        call!(self.audit(after, limit))
    }
}

impl Cluster for Faulty<dyn Cluster> {
    fn namespace<'a>(&'a self, environment: &'a EnvironmentName) -> cluster::Answer<'a, String> {
        call!(self.namespace(environment))
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
        call!(self.observe(namespace, objects))
    }

    fn prune<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        owner: &'a Owner,
    ) -> cluster::Answer<'a, ()> {
        call!(self.prune(namespace, object, owner))
    }
}
