"""Size and price follow from what was measured; a plan names what a deployment then creates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from askline.config import DeployConfig, PackageConfig
from askline.errors import ConfigError, DeployError
from askline.records import DeployPlan, Measured, PackageRef, Target
from tasks.deploy_serverless.plan import plan_deploy
from tasks.deploy_serverless.prices import TIERS, Instance, load_prices
from tasks.deploy_serverless.sizing import (
    MODEL_SERVER_MB,
    TOOLKIT_MB,
    Need,
    break_even_calls,
    busy,
    cheapest_instance,
    container_mb,
    serverless_memory,
    smallest_tier,
    usd_per_call,
)
from tasks.report import plan as report
from tasks.report.words import dollars, words

AWS = Target(kind="aws", region="us-east-1")
ROLE = "arn:aws:iam::111122223333:role/serve"
LEAN = "111122223333.dkr.ecr.us-east-1.amazonaws.com/askline-serving:0.1.0"
INSTANCES = load_prices("us-east-1").instances


def package(peak_mb: float | None, *, engine: str = "onnxruntime", answer_seconds: float = 0.24) -> PackageRef:
    measured = (
        None
        if peak_mb is None
        else Measured(
            load_seconds=2.0,
            load_peak_mb=peak_mb - 20,
            peak_mb=peak_mb,
            first_answer_seconds=0.3,
            answer_seconds=answer_seconds,
            answer_seconds_p95=0.4,
            batch_seconds=1.0,
            batch_questions=8,
            processor="some processor (avx2)",
        )
    )
    return PackageRef(
        sha256="p",
        archive_sha256="a" * 64,
        size=1,
        unpacked_size=300 * 2**20,
        model_sha256="m",
        members=(),
        engine=engine,
        measured=measured,
    )


#: flan-t5-base in bytes with ONNX Runtime, as it was measured once: 572 MB, 0.24 s for 32 tokens.
FLAN = package(572)


def plan(config: DeployConfig | None = None, of: PackageRef = FLAN, target: Target = AWS) -> DeployPlan:
    config = (config or DeployConfig()).model_copy(update={"role_arn": ROLE})
    return plan_deploy(config, PackageConfig(bucket="mine"), of, target=target)


def test_a_package_of_the_size_of_flan_t5_base_gets_the_smallest_tier_that_holds_it() -> None:
    choice = serverless_memory(DeployConfig(), FLAN, region="us-east-1")
    assert choice.needed_mb == pytest.approx((572 + MODEL_SERVER_MB + TOOLKIT_MB) * 1.25)
    assert (choice.memory_mb, choice.chosen, choice.notes) == (2048, "measured", ())


@pytest.mark.parametrize(("needed", "tier"), [(1, 1024), (1024, 1024), (1024.1, 2048), (6144, 6144), (6145, None)])
def test_a_tier_holds_what_is_not_more_than_it(needed: float, tier: int | None) -> None:
    assert smallest_tier(needed) == tier


@given(peak=st.floats(30, 4000), more=st.floats(0, 500), headroom=st.floats(1, 1.2))
def test_more_memory_never_gives_a_smaller_tier_and_the_need_always_fits(
    peak: float, more: float, headroom: float
) -> None:
    config = DeployConfig(memory_headroom=headroom)
    small, large = (serverless_memory(config, package(mb), region="us-east-1") for mb in (peak, peak + more))
    assert small.memory_mb <= large.memory_mb
    assert small.needed_mb is not None
    assert small.needed_mb <= small.memory_mb
    smaller = [tier for tier in TIERS if tier < small.memory_mb]
    assert not smaller or small.needed_mb > smaller[-1]


def test_what_the_image_needs_depends_on_the_image_and_the_engine() -> None:
    assert container_mb(None, "onnxruntime") == MODEL_SERVER_MB + TOOLKIT_MB
    assert container_mb(None, "transformers") == MODEL_SERVER_MB, "torch was measured with the package"
    assert container_mb("own:1-py312", "onnxruntime") == MODEL_SERVER_MB + TOOLKIT_MB, "an unknown image is the largest"
    assert container_mb(LEAN, "onnxruntime") == 0
    assert serverless_memory(DeployConfig(image=LEAN), FLAN, region="us-east-1").memory_mb == 1024


def test_a_configured_tier_is_kept_and_judged() -> None:
    little = serverless_memory(DeployConfig(memory_mb=1024), FLAN, region="us-east-1")
    assert (little.memory_mb, little.chosen) == (1024, "configured")
    assert "less than the package should have" in little.notes[0]
    much = serverless_memory(DeployConfig(memory_mb=6144), FLAN, region="us-east-1")
    assert much.memory_mb == 6144
    assert "2048 MB hold it" in much.notes[0]
    assert "quota" in much.notes[1]
    assert serverless_memory(DeployConfig(memory_mb=2048), FLAN, region="us-east-1").notes == ()


def test_a_package_that_was_not_measured_gets_a_cautious_tier_and_a_note() -> None:
    choice = serverless_memory(DeployConfig(), package(None), region="us-east-1")
    assert (choice.memory_mb, choice.chosen, choice.needed_mb) == (3072, "not measured", None)
    assert "not measured" in choice.notes[0]
    large = package(None).model_copy(update={"unpacked_size": 2 * 2**30})
    assert serverless_memory(DeployConfig(), large, region="us-east-1").memory_mb == 5120


def test_a_package_that_no_tier_holds_is_refused_with_the_figures_and_what_would_hold_it() -> None:
    with pytest.raises(DeployError, match=r"5000 MB measured \+ 515 MB .* × 1\.25 = 6894 MB.*6144 MB") as caught:
        serverless_memory(DeployConfig(), package(5000), region="us-east-1")
    assert "ml.m6i.large (8 GiB, 0.115 dollars an hour) would hold it" in str(caught.value)
    assert not caught.value.retryable
    with pytest.raises(DeployError, match="largest tier"):
        plan(of=package(5000))
    assert plan(DeployConfig(memory_mb=6144), of=package(5000)).notes[0].startswith("deploy.memory_mb = 6144 is less")


def test_the_options_have_sensible_limits() -> None:
    assert DeployConfig().memory_mb == "auto"
    assert DeployConfig(memory_mb="2048").memory_mb == 2048  # type: ignore[arg-type]
    for wrong in ({"memory_mb": 1000}, {"memory_mb": "Auto"}, {"memory_headroom": 0.9}, {"calls_per_month": 0}):
        with pytest.raises(ValidationError):
            DeployConfig(**wrong)  # type: ignore[arg-type]


# Four needs with a budget each, and the instance that a person would take.
@pytest.mark.parametrize(
    ("need", "budget", "name"),
    [
        (Need(memory_mb=1400), 0.11, "ml.c6i.large"),
        (Need(memory_mb=1400, workers=4), 0.25, "ml.c6i.xlarge"),
        (Need(memory_mb=7000, workers=2, vcpu=4), 0.30, "ml.m6i.xlarge"),
        (Need(memory_mb=6000, gpu=True), 0.80, "ml.g4dn.xlarge"),
    ],
)
def test_four_budgets_give_four_sensible_instances(need: Need, budget: float, name: str) -> None:
    assert cheapest_instance(need, INSTANCES, budget_per_hour=budget).name == name


def test_too_small_a_budget_is_refused_with_what_would_fit() -> None:
    with pytest.raises(ConfigError, match=r"0\.2 dollars an hour or less.*ml\.c6i\.xlarge at 0\.204"):
        cheapest_instance(Need(memory_mb=1400, workers=4), INSTANCES, budget_per_hour=0.2)


def test_a_need_that_nothing_holds_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match=r"largest is ml\.r5\.4xlarge \(128 GiB, 16 vCPU\), where 16 of them fit"):
        cheapest_instance(Need(memory_mb=8000, workers=40), INSTANCES)
    with pytest.raises(ConfigError, match="take a smaller model"):
        cheapest_instance(Need(memory_mb=1e6), INSTANCES)
    with pytest.raises(ConfigError, match="none of that kind"):
        cheapest_instance(Need(memory_mb=1, gpu=True), [each for each in INSTANCES if not each.gpus])


@given(
    memory=st.floats(100, 60_000),
    workers=st.integers(1, 6),
    budgets=st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
)
def test_a_larger_budget_never_gives_a_dearer_answer(memory: float, workers: int, budgets: tuple[float, float]) -> None:
    need = Need(memory_mb=memory, workers=workers)
    found = []
    for budget in sorted(budgets):
        try:
            best = cheapest_instance(need, INSTANCES, budget_per_hour=budget)
        except ConfigError:
            assert not found, "what a smaller budget buys, a larger one buys too"
            continue
        assert best.usd_per_hour <= budget
        assert best.memory_gib * 1024 >= memory * workers
        assert best.vcpu >= workers
        found.append(best)
    assert len(set(found)) <= 1


def test_at_the_same_price_more_vcpus_win_then_local_storage_then_the_newer() -> None:
    base = Instance(name="ml.m5.large", usd_per_hour=0.1, vcpu=2, memory_gib=8)
    cores = base.model_copy(update={"name": "ml.c5.xlarge", "vcpu": 4})
    disk = base.model_copy(update={"name": "ml.m5d.large", "local_nvme_gb": 75})
    newer = base.model_copy(update={"name": "ml.m6i.large"})
    cheaper = base.model_copy(update={"name": "ml.t2.large", "usd_per_hour": 0.09, "vcpu": 1})
    need = Need(memory_mb=1000)
    for better, among in ((cores, [disk, newer, base]), (disk, [newer, base]), (newer, [base])):
        assert cheapest_instance(need, [*among, better]) == better
        assert cheapest_instance(need, [better, *among]) == better
    assert cheapest_instance(need, [cores, cheaper]) == cheaper


def test_an_instance_with_a_gpu_is_taken_only_where_one_is_needed() -> None:
    gpu = Instance(name="ml.g4dn.xlarge", usd_per_hour=0.01, vcpu=4, memory_gib=16, gpus=1)
    assert not cheapest_instance(Need(memory_mb=1000), [gpu, *INSTANCES]).gpus
    assert cheapest_instance(Need(memory_mb=1000, gpu=True), [gpu, *INSTANCES]) == gpu


def test_the_costs_by_hand() -> None:
    # 0.5 s at 0.00004 a second; 0.1 an hour is 73 a month.
    assert usd_per_call(0.00004, 0.5) == pytest.approx(0.00002)
    assert break_even_calls(0.1, 0.00002) == pytest.approx(3_650_000)
    assert busy(3_650_000, 0.5) == pytest.approx(0.694, abs=0.001)


def test_the_price_through_the_api_is_the_sum_of_its_parts_by_hand() -> None:
    costs = plan().costs
    assert costs.api is not None
    assert costs.api.gateway_usd == pytest.approx(0.0035)  # 3.50 dollars a million
    # A request at 0.20 dollars a million, and 0.26 s with a quarter of a GB.
    assert costs.api.lambda_usd == pytest.approx(0.0002 + 1000 * 0.26 * 0.25 * 1.66667e-05)
    assert costs.api.endpoint_usd == costs.usd_per_1000_calls
    assert costs.api.usd_per_1000 == pytest.approx(0.0035 + 0.00128333 + 0.0096, rel=1e-4)
    assert costs.api.usd_per_month == pytest.approx(10 * costs.api.usd_per_1000)  # of 10,000 questions


def test_a_price_that_is_shown_in_one_line_is_the_callers_not_the_endpoints_alone() -> None:
    made = plan()
    assert "0.014 $ for 1,000 questions through the API" in words(made)
    assert "API Gateway 0.0035 $, Lambda 0.0013 $, endpoint 0.0096 $" in dict(report.rows(made))["with the API"]


def test_without_prices_of_the_api_the_endpoints_price_is_called_what_it_is() -> None:
    made = plan()
    bare = made.model_copy(update={"costs": made.costs.model_copy(update={"api": None})})
    assert "for 1,000 calls of the endpoint" in words(bare)
    assert "with the API" not in dict(report.rows(bare))


def test_the_plan_shows_the_price_and_the_break_even() -> None:
    made = plan(DeployConfig(calls_per_month=100_000))
    assert (made.serving.memory_mb, made.costs.usd_per_second) == (2048, 0.00004)
    assert made.costs.usd_per_1000_calls == pytest.approx(0.0096)
    assert made.costs.usd_per_month == pytest.approx(0.96)
    assert (made.costs.instance, made.costs.instance_usd_per_hour) == ("ml.c6i.large", 0.102)
    assert made.costs.instance_usd_per_month == pytest.approx(74.46)
    assert made.costs.break_even_calls == pytest.approx(74.46 / 0.0000096)
    assert made.costs.break_even_busy is not None
    # The same money either way: an instance that is always on against seconds that are busy.
    assert made.costs.break_even_busy * made.costs.usd_per_second * 3600 == pytest.approx(
        made.costs.instance_usd_per_hour
    )


def test_the_plan_names_where_the_archive_will_lie() -> None:
    made = plan(DeployConfig(mlkey="curie", tags={"team": "blue"}))
    assert made.serving.archive_uri == f"s3://mine/deploy/curie/{'a' * 12}/model.tar.gz"
    assert made.tags == {"askline:managed": "true", "askline:mlkey": "curie", "team": "blue"}


def test_traffic_and_headroom_change_no_name() -> None:
    base = plan()
    busier = plan(DeployConfig(calls_per_month=9, memory_headroom=1.3))
    assert (busier.serving.model_name, busier.serving.config_name) == (
        base.serving.model_name,
        base.serving.config_name,
    )


def test_aws_needs_a_role_before_there_is_a_plan() -> None:
    with pytest.raises(ConfigError, match=r"deploy\.role_arn"):
        plan_deploy(DeployConfig(), PackageConfig(bucket="mine"), FLAN, target=AWS)


def test_a_person_can_read_the_plan() -> None:
    made = plan(target=Target(kind="aws", region="eu-central-1"))
    said = report.text(made)
    for part in (
        "serv-hf-endpoint-biography (serverless, eu-central-1)",
        "2048 MB, the smallest tier that holds it: (572 measured + 515 container) × 1.25 = 1359 MB",
        "0.0096 $ for 1,000 calls, 0.096 $ a month at 10,000 calls",
        "ml.c6i.large, 0.102 $ an hour, 74.46 $ a month; cheaper from 7,756,250 calls a month on",
        "askline:managed=true",
        ROLE,
        "huggingface-pytorch-inference",
        "prices of us-east-1: for those of eu-central-1 run `python -m deployments.prices --region eu-central-1`",
    ):
        assert part in said, part
    assert all(name in report.markdown(made) for name, _ in report.rows(made))
    assert "2048 MB" in words(made)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.00 $"),
        (0.00002, "0.000020 $"),
        (0.0096, "0.0096 $"),
        (0.5, "0.50 $"),
        (7, "7.00 $"),
        (1234.5, "1,234.50 $"),
    ],
)
def test_small_amounts_keep_two_digits(amount: float, text: str) -> None:
    assert dollars(amount) == text


def test_a_plan_without_measurements_leaves_out_what_it_cannot_know() -> None:
    made = plan(of=package(None))
    assert (made.costs.usd_per_1000_calls, made.costs.usd_per_month, made.costs.break_even_calls) == (None, None, None)
    said = report.text(made)
    assert "3072 MB (not measured)" in said
    assert "1,000 calls" not in said
    assert "how long an answer takes was not measured" in said
