//! The simulated cluster: enough of Kubernetes over real HTTP that kube's client and kubectl cannot tell.
//!
//! * [`ApiServer`] speaks the list, watch, get and patch protocol on loopback, and goes wrong on demand ([`Faults`]).
//! * [`Cloud`] answers the two calls of the Civo API that a reboot needs, and fails them in every known way.
//! * [`Fleet`] makes nodes from a seed and lets them live: kubelets, leases, faults by script ([`Story`]), reboots.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use apgar_sim::*;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ApiServer::start(SimConfig::default())?;
//! let fleet = Fleet::new(7, &[(Shape::CivoFlannel, 6), (Shape::CivoGpu, 2)]);
//! let story = Story::new()
//!     .scene(Duration::from_secs(60), "web-3", Fault::new(FaultKind::NotReady))
//!     .scene(Duration::from_secs(90), "gpu-1", Fault::new(FaultKind::GpuLost { gpus: 2 }));
//! // Twenty minutes of the fleet in one of ours.
//! let running = fleet.run(&server, Pace::times(20.0), &story)?;
//! let cloud = Cloud::start(CloudConfig::default(), running.machines())?;
//!
//! let rejected = Answer::Status { code: 503, retry_after: Some(2) };
//! cloud.add(CloudRule::new(CloudCall::Reboot, rejected).times(1));
//! server.faults().add(Rule::new(Effect::LoseAnswer).method("PATCH").path("/nodes/").share(0.1));
//! server.faults().partition(Partition::Refused)?;
//!
//! println!("{} {} {}", server.url(), server.kubeconfig(), cloud.url());
//! for happening in running.happened() {
//!     println!("{:?} {} {}", happening.at, happening.node, happening.what);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It depends on nothing of ours, so that what it claims about the world is never what the daemon wishes were true.

mod clock;
mod cloud;
mod faults;
mod fleet;
mod link;
mod object;
mod patch;
mod random;
mod record;
mod refusal;
mod resource;
mod selector;
mod server;
mod store;
mod task;

pub use cloud::{Answer, Cloud, CloudCall, CloudConfig, CloudRule, Instance, Inventory, Machines};
pub use faults::{Effect, Faults, Rule, RuleId};
pub use fleet::{
    Cure, Fault, FaultKind, Fleet, Happening, NodeInfo, Pace, Running, Scene, Shape, Story, UnknownFault, What,
};
pub use link::Partition;
pub use record::Request;
pub use refusal::Refusal;
pub use resource::{Resource, Scope};
pub use server::{ApiServer, Objects, SimConfig};
