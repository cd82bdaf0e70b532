//! The record of builds, with a point before and after each call.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Faulty;
use crate::model::{BuildId, RepositoryName, ServiceName, Time};
use crate::store::{Answer, Autopush, Build, BuildChange, BuildStore, BuildTarget, By};

impl<T: BuildStore + ?Sized> BuildStore for Faulty<T> {
    fn schedules(&self) -> Answer<'_, BTreeMap<RepositoryName, Value>> {
        read!(self.schedules())
    }

    fn record_schedule<'a>(
        &'a self,
        repository: &'a RepositoryName,
        schedule: Value,
        changes: Vec<BuildChange>,
        by: By,
    ) -> Answer<'a, Vec<Build>> {
        call!(self.record_schedule(repository, schedule, changes, by))
    }

    fn build<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Option<Build>> {
        read!(self.build(id))
    }

    fn made_build<'a>(&'a self, by: &'a By) -> Answer<'a, Option<Build>> {
        read!(self.made_build(by))
    }

    fn builds<'a>(
        &'a self,
        repository: &'a RepositoryName,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Build>> {
        read!(self.builds(repository, before, limit))
    }

    fn open_builds<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Vec<Build>> {
        read!(self.open_builds(repository))
    }

    fn build_targets<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Vec<BuildTarget>> {
        read!(self.build_targets(id))
    }

    fn record_target<'a>(
        &'a self,
        build: &'a Build,
        target: &'a BuildTarget,
        now: Time,
    ) -> Answer<'a, bool> {
        call!(self.record_target(build, target, now))
    }

    fn released_target<'a>(
        &'a self,
        repository: &'a RepositoryName,
        service: &'a ServiceName,
        key: Option<&'a str>,
    ) -> Answer<'a, Option<BuildTarget>> {
        read!(self.released_target(repository, service, key))
    }

    fn open_autopushes(&self) -> Answer<'_, Vec<Autopush>> {
        read!(self.open_autopushes())
    }

    fn close_autopush<'a>(&'a self, autopush: &'a Autopush, outcome: &'a str) -> Answer<'a, ()> {
        call!(self.close_autopush(autopush, outcome))
    }
}
