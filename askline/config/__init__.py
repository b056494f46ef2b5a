"""The one configuration of the pipeline: the same model fills the command line, a TOML file, environment
variables and the Prefect form.

Frozen, and strict about unknown keys. It holds no secret: credentials come from AWS's own chain, from ``HF_TOKEN``
or from a Prefect block.
"""

from askline.config.api import ApiAlarmsConfig as ApiAlarmsConfig
from askline.config.api import ApiConfig as ApiConfig
from askline.config.api import ApiLimitsConfig as ApiLimitsConfig
from askline.config.api import ApiLogsConfig as ApiLogsConfig
from askline.config.api import LogDays as LogDays
from askline.config.api import QuestionLogConfig as QuestionLogConfig
from askline.config.dataset import DatasetConfig as DatasetConfig
from askline.config.deploy import AsyncConfig as AsyncConfig
from askline.config.deploy import AutoscalingConfig as AutoscalingConfig
from askline.config.deploy import BlueGreenConfig as BlueGreenConfig
from askline.config.deploy import DataCaptureConfig as DataCaptureConfig
from askline.config.deploy import DeployConfig as DeployConfig
from askline.config.deploy import EndpointKind as EndpointKind
from askline.config.deploy import MemoryTier as MemoryTier
from askline.config.deploy import VpcConfig as VpcConfig
from askline.config.deploy import scaling_min as scaling_min
from askline.config.evaluation import EvaluationConfig as EvaluationConfig
from askline.config.hub import HubConfig as HubConfig
from askline.config.package import PackageConfig as PackageConfig
from askline.config.pipeline import STEPS as STEPS
from askline.config.pipeline import Minutes as Minutes
from askline.config.pipeline import PipelineConfig as PipelineConfig
from askline.config.pipeline import Step as Step
from askline.config.pipeline import TimeoutsConfig as TimeoutsConfig
from askline.config.section import Fraction as Fraction
from askline.config.section import Section as Section
from askline.config.section import digits_to_int as digits_to_int
from askline.config.smoke import SmokeConfig as SmokeConfig
from askline.config.training import ClusterConfig as ClusterConfig
from askline.config.training import EarlyStoppingConfig as EarlyStoppingConfig
from askline.config.training import LoraTuningConfig as LoraTuningConfig
from askline.config.training import TrainingConfig as TrainingConfig
