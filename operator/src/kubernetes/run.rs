//! `zookeeper-operator run`: from the call to the loop, and from a signal to the end.

use std::net::SocketAddr;
use std::time::Duration;

use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use crate::backend::Class;
use crate::crd::ZooKeeperEnsemble;

use super::Settings;
use super::api::call;
use super::caches::Caches;
use super::context::{Context, Crash};
use super::controller::Controller;
use super::events::Events;
use super::lease::{Keeper, LeaseLost, LeaseName};
use super::members::Network;
use super::metrics::Metrics;
use super::traffic::Traffic;
use super::web::{self, Health};

/// What `zookeeper-operator run` was called with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to watch; none: all.
    pub namespaces: Vec<String>,
    /// What is the same for all ensembles.
    pub settings: Settings,
    /// Where to serve `/metrics`, `/healthz` and `/readyz`.
    pub http_address: SocketAddr,
    /// The lease, and this process as its holder. Without a namespace, the one that the client is configured with.
    pub lease_name: String,
    /// Its namespace.
    pub lease_namespace: Option<String>,
    /// This process.
    pub identity: String,
    /// Passes at a time.
    pub concurrency: usize,
    /// Where to die, for tests.
    pub crash: Crash,
}

/// Why the operator ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// No way to the API server.
    #[error("no way to the API server: {0}; run it in a cluster, or set KUBECONFIG")]
    Config(String),
    /// The API server does not know ensembles.
    #[error("{0}")]
    NotServed(String),
    /// A port, a signal.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another operator acts now.
    #[error(transparent)]
    LeaseLost(#[from] LeaseLost),
    /// A part ended that never should.
    #[error("{0}")]
    Broken(&'static str),
}

/// Runs until a signal says to stop.
pub async fn run(options: Options) -> Result<(), RunError> {
    let mut stop = Stop::listen()?;
    let metrics = Metrics::default();
    let health = Health::default();
    let listener = web::bind(options.http_address)
        .await
        .map_err(|error| RunError::Io {
            what: format!("listening on {} (--http-address)", options.http_address),
            error,
        })?;
    let pages = web::serve(listener, metrics.clone(), health.clone());
    let config = config().await?;
    let client = client(config.clone(), &metrics)?;
    let lease = LeaseName {
        name: options.lease_name.clone(),
        namespace: options
            .lease_namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone()),
        identity: options.identity.clone(),
    };
    // A client and a task of its own: nothing else can delay a renewal.
    let (keeper, fence) = Keeper::new(self::client(config, &metrics)?, lease);
    let (release, released) = oneshot::channel();
    let mut keeping = tokio::spawn(keeper.keep_until(async {
        // An error means that this process is ending anyway.
        let _ = released.await;
    }));
    let ctx = Context {
        events: Events::new(client.clone(), &options.identity),
        client,
        members: Network,
        settings: options.settings.clone(),
        fence,
        crash: options.crash.clone(),
    };
    let work = work(&options, &ctx, &metrics, &health, &mut stop);
    let outcome = tokio::select! {
        outcome = work => outcome,
        lost = &mut keeping => match lost {
            Ok(Some(lost)) => Err(lost.into()),
            Ok(None) | Err(_) => Err(RunError::Broken("the lease's keeper has ended")),
        },
        ended = pages => Err(match ended {
            Ok(()) => RunError::Broken("the web pages have ended"),
            Err(error) => RunError::Io { what: "serving the web pages".into(), error },
        }),
    };
    metrics.set_lease_held(false);
    if outcome.is_ok() && release.send(()).is_ok() {
        // What goes wrong is in the log; the lease runs out by itself.
        let _ = keeping.await;
    }
    outcome
}

/// Waits for its turn and keeps the ensembles; returns when it was told to stop.
async fn work(
    options: &Options,
    ctx: &Context<Network>,
    metrics: &Metrics,
    health: &Health,
    stop: &mut Stop,
) -> Result<(), RunError> {
    tokio::select! {
        ready = stand_by(options, ctx, health) => ready?,
        () = stop.told() => return Ok(()),
    }
    metrics.set_lease_held(true);
    let (send, pokes) = unbounded_channel();
    let mut caches = Caches::start(&ctx.client, &options.namespaces, &send);
    tokio::select! {
        () = beating(health, caches.ready()) => {}
        () = stop.told() => return Ok(()),
    }
    tracing::info!(
        ensembles = caches.keys().len(),
        "everything was read; keeping the ensembles"
    );
    let broken = caches.take_tasks();
    let controller = Controller {
        ctx,
        caches: &caches,
        metrics,
        health,
        concurrency: options.concurrency,
    };
    tokio::select! {
        () = controller.run(pokes, stop.told()) => Ok(()),
        () = broken => Err(RunError::Broken("a watch has ended")),
    }
}

/// Returns when the lease is ours.
async fn stand_by(
    options: &Options,
    ctx: &Context<Network>,
    health: &Health,
) -> Result<(), RunError> {
    beating(health, check_served(&ctx.client, &options.namespaces)).await?;
    health.set_ready(true);
    tracing::info!(identity = options.identity, "standing by for the lease");
    let mut fence = ctx.fence.clone();
    beating(health, fence.acquired()).await;
    Ok(())
}

/// Waits for something while the process is well.
async fn beating<T>(health: &Health, awaited: impl Future<Output = T>) -> T {
    let mut awaited = std::pin::pin!(awaited);
    loop {
        health.beat();
        if let Ok(done) = tokio::time::timeout(BEAT, awaited.as_mut()).await {
            return done;
        }
    }
}

async fn config() -> Result<Config, RunError> {
    let mut config = Config::infer()
        .await
        .map_err(|error| RunError::Config(error.to_string()))?;
    // Its own retries can last for minutes; a pass that fails comes again anyway.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}

/// A client whose requests are counted, with a budget of its own.
fn client(config: Config, metrics: &Metrics) -> Result<Client, RunError> {
    let builder =
        ClientBuilder::try_from(config).map_err(|error| RunError::Config(error.to_string()))?;
    let traffic = Traffic::new(metrics.api_requests());
    Ok(builder.with_layer(&traffic).build())
}

/// Asks for the ensembles once, so that what is missing is said at the start.
async fn check_served(client: &Client, namespaces: &[String]) -> Result<(), RunError> {
    let api: Api<ZooKeeperEnsemble> = match namespaces {
        [] => Api::all(client.clone()),
        [first, ..] => Api::namespaced(client.clone(), first),
    };
    loop {
        let asked = call(
            "listing ensembles",
            api.list_metadata(&ListParams::default().limit(1)),
        )
        .await;
        match asked {
            Ok(_) => return Ok(()),
            Err(error) if error.class == Class::Transport => {
                tracing::warn!(%error, "the API server does not answer yet; trying again");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) if error.class == Class::Outdated => {
                return Err(RunError::NotServed(format!(
                    "{error}: the API server does not serve ZooKeeperEnsembles; install the definition with \
                     `zookeeper-operator crd | kubectl apply --server-side -f -`, or with the chart (crds.install=true)"
                )));
            }
            Err(error) => {
                return Err(RunError::NotServed(format!(
                    "{error}: the operator's account lacks rights; install the chart's roles, or watch only \
                     namespaces in which it has them (--namespace)"
                )));
            }
        }
    }
}

/// The signals that end the operator.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, RunError> {
        let listen = |kind| {
            signal(kind).map_err(|error| RunError::Io {
                what: "listening for signals".into(),
                error,
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const BEAT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);
