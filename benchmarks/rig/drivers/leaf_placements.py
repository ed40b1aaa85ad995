"""LEAF: applications placed on sites and removed again, power measured each second. Runs in LEAF's own environment.

An application is source, processing and sink; the source's site asks, the least used site takes it. Sites hang on one core node by two
links each, which is the cheapest graph for LEAF's shortest paths. Arrivals: one in ten seconds a site; each stays 30 s.
"""

import argparse
import json
import random
import time

import simpy
from leaf.application import Application, ProcessingTask, SinkTask, SourceTask
from leaf.infrastructure import Infrastructure, Link, Node
from leaf.orchestrator import Orchestrator
from leaf.power import PowerMeter, PowerModelLink, PowerModelNode
from peak import rss_mib

APPS_PER_SITE_S = 0.1
STAY_S = 30.0


class LeastUsed(Orchestrator):
    """Looks at every site, as a router without an index does."""

    def __init__(self, infrastructure, sites):
        super().__init__(infrastructure)
        self.sites = sites

    def _processing_task_placement(self, processing_task, application):
        return min(self.sites, key=Node.utilization)


def build(count):
    infrastructure, core = Infrastructure(), Node("core")
    sites = [
        Node(f"s{i}", cu=1000, power_model=PowerModelNode(max_power=700, static_power=100))
        for i in range(count)
    ]
    for i, site in enumerate(sites):
        for src, dst in ((site, core), (core, site)):
            power = PowerModelLink(energy_per_bit=1e-9)
            infrastructure.add_link(
                Link(src, dst, bandwidth=1e9, power_model=power, latency=5 + i % 50)
            )
    return infrastructure, sites


def arrivals(env, orchestrator, sites, count, done):
    draw = random.Random(7)
    for _ in range(count):
        yield env.timeout(draw.expovariate(APPS_PER_SITE_S * len(sites)))
        application, home = Application(), draw.choice(sites)
        source, work = SourceTask(cu=1, bound_node=home), ProcessingTask(cu=5)
        application.add_task(source)
        application.add_task(work, incoming_data_flows=[(source, 1e5)])
        sink = SinkTask(cu=1, bound_node=home)
        application.add_task(sink, incoming_data_flows=[(work, 1e5)])
        orchestrator.place(application)
        env.process(leave(env, application, done))


def leave(env, application, done):
    yield env.timeout(STAY_S)
    application.deallocate()
    done.append(env.now)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    args = parser.parse_args()
    begun_cpu_s = time.process_time()
    env, done = simpy.Environment(), []
    infrastructure, sites = build(args.sites)
    meter = PowerMeter(infrastructure, measurement_interval=1)
    env.process(meter.run(env))
    env.process(arrivals(env, LeastUsed(infrastructure, sites), sites, args.count, done))
    while len(done) < args.count:
        env.run(until=env.now + 60)
    found = {
        "units": len(done),
        "work_cpu_s": time.process_time() - begun_cpu_s,
        "rss_mib": rss_mib(),
        "simulated_s": env.now,
        "mean_kw": sum(map(float, meter.measurements)) / len(meter.measurements) / 1000,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
