"""A night's run and a sweep as Airflow tasks: Airflow says when, runbook's workers execute, the audit keeps what came of it.

For Airflow 2.10 or later with apache-airflow-providers-standard. The tasks need the command `runbook`, the project's folder and
DATABASE_URL where Airflow's own workers are; they only submit and wait.
"""

from __future__ import annotations

import pendulum
from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

PROJECT = "/srv/runbook/etl"

with DAG(
    dag_id="runbook_nightly",
    schedule="0 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    # A retry would be a second run. Where that is right, the runbook says `rerun: true`, and only for runs that were lost.
    default_args={"retries": 0},
):
    nightly = BashOperator(
        task_id="nightly",
        # Templated values come through the environment, so that no text of theirs is ever read by the shell.
        bash_command='runbook submit nightly -p "day=\'$DAY\'" --note "$NOTE" --operator airflow --wait',
        env={"DAY": "{{ ds }}", "NOTE": "{{ run_id }}"},
        append_env=True,
        cwd=PROJECT,
        # 3, blocked: preflight found that it must not run tonight. It touched nothing, and what comes after it is skipped.
        skip_on_exit_code=[3],
    )
    sweep = BashOperator(
        task_id="sweep",
        bash_command="runbook submit sweep --matrix limit=50,100,500 --operator airflow --wait",
        append_env=True,
        cwd=PROJECT,
    )
    nightly >> sweep
