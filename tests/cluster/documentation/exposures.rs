//! Each way in which clients reach the gateway, from the overlay and from the chart.

use super::{Folder, available};
use crate::node::{kubectl, report};

/// The component of the overlay, and the value of the chart.
const EXPOSURES: [(&str, &str); 3] =
    [("load-balancer", "LoadBalancer"), ("node-port", "NodePort"), ("host-ports", "HostPort")];

/// Installs the gateway in each way, and waits until the first route responds there. No balancer
/// is here to take up the Service of the first, so its node port is what a balancer would use.
pub(super) async fn each_responds() {
    kubectl(&["label", "nodes", "--all", "portcullis.dev/gateway="]);
    for (component, _) in EXPOSURES {
        let folder = Folder::new();
        // One node has room for one pod with its ports.
        folder.bash(&format!(
            "printf 'components: [../kubernetes/components/{component}]\n\
             replicas: [{{name: portcullis, count: 1}}]\n' >> deploy/overlay/kustomization.yaml\n\
             kubectl apply -k deploy/overlay"
        ));
        responds(&folder, &format!("the overlay with {component}")).await;
    }
    let folder = Folder::new();
    folder.bash("kubectl delete -k deploy/overlay --ignore-not-found");
    for (_, exposure) in EXPOSURES {
        folder.bash(&format!(
            "helm upgrade --install portcullis deploy/helm/portcullis --namespace portcullis \
             --create-namespace --set zone=apps.example.com --set replicas=1 \
             --set exposure.type={exposure}"
        ));
        responds(&folder, &format!("the chart with {exposure}")).await;
    }
}

pub(super) async fn responds(folder: &Folder, what: &str) {
    folder
        .bash("kubectl rollout status deployment/portcullis --namespace portcullis --timeout 180s");
    available();
    let key = folder.bash("portcullis key create importer");
    folder.is_served(Some(key.trim()), "200").await;
    folder.is_served(None, "404").await;
    report(&format!("{what} responds"));
}
