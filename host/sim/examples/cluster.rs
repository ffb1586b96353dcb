//! A cluster to try kubectl and Apgar on: says where it is and runs until interrupted, while its nodes fall ill.

use std::error::Error;
use std::time::Duration;

use apgar_sim::{ApiServer, Cloud, CloudConfig, Fleet, Pace, Shape, SimConfig, Story};

/// A minute of the cluster in three seconds.
const SPEED: f64 = 20.0;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = ApiServer::start(SimConfig::default())?;
    let fleet = Fleet::new(
        1,
        &[(Shape::CivoFlannel, 4), (Shape::CivoCilium, 4), (Shape::CivoGpu, 2), (Shape::Eks, 2), (Shape::Gke, 2)],
    );
    let story = Story::random(1, &fleet, 6, Duration::from_secs(20 * 60));
    for scene in story.scenes() {
        println!("# after {:.0?}: {} {}", scene.at.div_f64(SPEED), scene.node, scene.fault.kind);
    }
    let running = fleet.run(&server, Pace::times(SPEED), &story)?;
    let cloud = Cloud::start(CloudConfig::default(), running.machines())?;
    let kubeconfig = std::env::temp_dir().join("apgar-sim.kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig())?;
    println!("export KUBECONFIG={}", kubeconfig.display());
    println!("export CIVO_API_URL={} CIVO_API_KEY={}", cloud.url(), cloud.config().key);
    println!("export CIVO_CLUSTER_ID={} CIVO_REGION={}", cloud.config().cluster, cloud.config().region);
    tokio::signal::ctrl_c().await?;
    for happening in running.happened() {
        println!("{:>6.0?} {} {}", happening.at, happening.node, happening.what);
    }
    Ok(())
}
