"""A Dask cluster of real processes gives what this process gives, also when it loses a worker."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from kd_mlflow.config import StudentRecipe, TeachersConfig
from kd_mlflow.dataset import read_dataset
from kd_mlflow.distilling import student_groups
from kd_mlflow.errors import ClusterError
from kd_mlflow.students import student_task, transfer_set
from kd_mlflow.teachers import Ensemble
from kd_mlflow.teaching import teacher_task, teachers_encoding
from kd_mlflow.workers import Workers



@pytest.fixture
def cluster():
    """A scheduler and two workers as processes of their own: the address and the workers' pids."""
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    flags = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
    started = [subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)]
    yield started


