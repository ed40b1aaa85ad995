"""Vidur: a request table through replicas of Llama-2-7B on an A100 each. Runs in its own environment, in a checkout's folder.

Sarathi batching, least outstanding requests first, operator times by linear regression (its default, a random forest, trains for tens of
minutes), trained in this process, not in workers. Plots and the trace for a browser are off. Trained models stay in `--models`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from peak import rss_mib


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    args = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))
    from vidur.main import main as run_vidur

    sys.argv = [
        "vidur", "--replica_config_model_name", "meta-llama/Llama-2-7b-hf", "--replica_config_device", "a100",
        "--cluster_config_num_replicas", str(args.replicas), "--global_scheduler_config_type", "lor",
        "--replica_scheduler_config_type", "sarathi", "--request_generator_config_type", "trace_replay",
        "--trace_request_generator_config_trace_file", str(args.requests),
        "--execution_time_predictor_config_type", "linear_regression",
        "--linear_regression_execution_time_predictor_config_num_training_job_threads", "1",
        "--metrics_config_output_dir", str(args.work / "out"), "--metrics_config_cache_dir", str(args.models),
        "--no-metrics_config_store_plots", "--no-metrics_config_enable_chrome_trace",
    ]  # fmt: skip
    begun_cpu_s = time.process_time()
    run_vidur()
    # It ends only when no request is left, and asserts that itself.
    served = args.requests.read_text().count("\n") - 1
    work_cpu_s = time.process_time() - begun_cpu_s
    print(json.dumps({"units": served, "work_cpu_s": work_cpu_s, "rss_mib": rss_mib()}), flush=True)


if __name__ == "__main__":
    main()
