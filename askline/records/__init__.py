"""The records that pass between steps: small, frozen, with a content address and the facts the next step needs.

The bytes stay in the artifact store (:mod:`askline.store`); a record says where, with the sha256 to verify them by.
"""

from askline.records.dataset import DatasetRef as DatasetRef
from askline.records.dataset import SourceRef as SourceRef
from askline.records.deployment import ApiCosts as ApiCosts
from askline.records.deployment import ApiRef as ApiRef
from askline.records.deployment import Costs as Costs
from askline.records.deployment import DeployPlan as DeployPlan
from askline.records.deployment import EndpointRef as EndpointRef
from askline.records.deployment import Preflight as Preflight
from askline.records.deployment import PreflightCheck as PreflightCheck
from askline.records.deployment import Promotion as Promotion
from askline.records.deployment import Size as Size
from askline.records.deployment import SmokeAnswer as SmokeAnswer
from askline.records.deployment import SmokeRef as SmokeRef
from askline.records.gate import Approval as Approval
from askline.records.gate import ChampionRef as ChampionRef
from askline.records.gate import Comparison as Comparison
from askline.records.gate import Gate as Gate
from askline.records.gate import Paired as Paired
from askline.records.hub import HubRef as HubRef
from askline.records.model import BaseRef as BaseRef
from askline.records.model import ModelRef as ModelRef
from askline.records.package import Agreement as Agreement
from askline.records.package import Measured as Measured
from askline.records.package import PackageRef as PackageRef
from askline.records.package import UploadRef as UploadRef
from askline.records.record import Record as Record
from askline.records.record import Target as Target
from askline.records.run import FanOut as FanOut
from askline.records.run import PipelineReport as PipelineReport
from askline.records.run import Run as Run
from askline.records.run import RunReport as RunReport
from askline.records.scores import KindScores as KindScores
from askline.records.scores import Scores as Scores
from askline.records.scores import SplitScores as SplitScores
from askline.records.second_opinion import SecondOpinionRef as SecondOpinionRef
from askline.records.serving import Destination as Destination
from askline.records.serving import Scaling as Scaling
from askline.records.serving import Serving as Serving
