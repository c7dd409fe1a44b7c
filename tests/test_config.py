"""Where the server is: argument before environment before embedded, and no password in sight."""

import copy
import dataclasses
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from redis.connection import parse_url

from thoonk_jobs.arguments import PRIORITIES, moment, priority_number, seconds, text
from thoonk_jobs.config import FORMS, Config, masked
from thoonk_jobs.errors import ConfigError, InvalidArgument, ThoonkError


def make(url=None, *, environ=None, **options):
    return Config.make(url, environ={} if environ is None else environ, **options)


def test_without_a_url_the_server_is_embedded():
    config = make()

    assert config.embedded
    assert config.directory is None
    assert config.server_url is None
    assert (config.url, config.namespace, config.publisher, config.retry_for) == ("embedded:", "thoonk", None, 10.0)
    assert config.redis_options == {}


def test_the_argument_goes_before_the_environment():
    environ = {"THOONK_URL": "redis://from-environment"}

    assert make(environ=environ).server_url == "redis://from-environment"
    assert make("redis://given", environ=environ).server_url == "redis://given"
    assert make("embedded:", environ=environ).embedded


def test_an_empty_variable_is_as_none():
    assert make(environ={"THOONK_URL": ""}) == make()


def test_the_environment_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("THOONK_URL", "redis://from-environment")

    assert Config.make().server_url == "redis://from-environment"


def test_an_embedded_server_may_have_a_directory():
    assert make("embedded:/some/dir").directory == "/some/dir"
    assert make("embedded:///some/dir").directory == "/some/dir"
    assert make("embedded:~/some dir").directory == "~/some dir"
    assert make("embedded:/a dir/with@sign").url == "embedded:/a dir/with@sign"
    assert make("EMBEDDED:/some/dir").embedded


SERVERS = {
    "redis://": "redis://",
    "redis://db:6379/2": "redis://db:6379/2",
    "redis://db/": "redis://db/",
    "redis://user:pass@db": "redis://user:pass@db",
    "redis://user:p@ss@db": "redis://user:p@ss@db",
    "redis://[::1]:6379/0?socket_timeout=5": "redis://[::1]:6379/0?socket_timeout=5",
    "REDIS://db": "redis://db",
    "rediss://db:6380": "rediss://db:6380",
    "valkey://db": "redis://db",
    "valkeys://:secret@db:1/3": "rediss://:secret@db:1/3",
    "unix:///run/redis.sock": "unix:///run/redis.sock",
    "unix://user:pass@/run/redis.sock?db=3": "unix://user:pass@/run/redis.sock?db=3",
}


@pytest.mark.parametrize(("url", "server_url"), SERVERS.items())
def test_a_server_url_is_what_redis_py_reads(url, server_url):
    config = make(url)

    assert config.server_url == server_url
    assert not config.embedded
    parse_url(config.server_url)


REFUSED = [
    "", "db", "db:6379", "localhost", "http://db", "redis", "redis:", "redis:db", "redis:/db", "redi://db",
    "embedded", "embedded:relative", "embedded:./x", "embedded:~x", "embedded://host/dir", "memory:",
    "redis://db:port", "redis://db:99999", "redis://[bad", "redis://db/name", "redis://db/1/2", "redis://db#1",
    "redis://:pass/word@db", "redis://:12/word@db", "redis://:12?word@db", "redis://:pass#word@db",
    "unix://", "unix:///", "unix://run/redis.sock", "unix:/run/redis.sock", "unix:run", "redis://db\n", "redis://\x00",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_another_form_is_refused_and_quoted(url):
    with pytest.raises(ConfigError) as refused:
        make(url)

    assert f"url={masked(url)!r}" in str(refused.value)
    assert "word" not in str(refused.value).replace("a password", "")


@pytest.mark.parametrize("url", ["db", "http://db", "", "memory:"])
def test_a_refusal_lists_what_is_allowed(url):
    with pytest.raises(ConfigError) as refused:
        make(url)

    assert all(form in str(refused.value) for form in FORMS)


@pytest.mark.parametrize("url", ["redis+sentinel://a:1,b:2/service", "redis+cluster://:secret@a:1,b:2"])
def test_sentinel_and_cluster_are_not_known_yet(url):
    with pytest.raises(ConfigError, match="this version does not know redis\\+(sentinel|cluster):// yet") as refused:
        make(url)

    assert "secret" not in str(refused.value)


def test_a_refused_variable_is_named():
    with pytest.raises(ConfigError, match="THOONK_URL='db:6379' is not a known form"):
        make(environ={"THOONK_URL": "db:6379"})


@pytest.mark.parametrize("url", [b"redis://db", 5, ["redis://db"], {}])
def test_a_url_that_is_no_text_is_refused(url):
    with pytest.raises(ConfigError, match="url is a "):
        make(url)


SECRETS = [
    "redis://user:hunter2@db", "redis://:hunter2@db", "redis://hunter2@db", "redis://user:hun@hunter2@db",
    "redis://:a/hunter2@db", "redis://:a?hunter2@db", "redis://:a#hunter2@db", "redis://db?password=hunter2",
    "redis://db/0?db=1&ssl_password=hunter2&x=1", "redis://db?PASSWORD=hunter2", "http://user:hunter2@db",
    "user:hunter2@db", "redis:user:hunter2@db", "redis+cluster://u:hunter2@a:1,b:2", "unix://u:hunter2@/run/r.sock",
    "unix:///run/r.sock?password=hunter2", "redis://:hunter2\n@db", "redis://u:hunter2@db:port",
]  # fmt: skip


@pytest.mark.parametrize("url", SECRETS)
def test_a_password_is_never_shown(url):
    try:
        config = make(url)
        shown = f"{config!r} {config} {config.url}"
    except ConfigError as error:
        shown = f"{error!r} {error} {error.__cause__} {error.__context__ if not error.__suppress_context__ else ''}"

    assert "hunter2" not in shown
    assert "***" in shown


def test_options_are_not_shown():
    config = make("redis://db", redis_options={"password": "hunter2"})

    assert "hunter2" not in repr(config)
    assert config.redis_options == {"password": "hunter2"}


def test_masking_leaves_the_rest_readable():
    assert masked("redis://user:secret@db:6379/0?db=1") == "redis://user:***@db:6379/0?db=1"
    assert masked("redis://db:6379/0") == "redis://db:6379/0"
    assert masked("unix:///run/a@b.sock") == "unix:///run/a@b.sock"


def test_settings_are_frozen_and_can_be_handed_to_a_process():
    options = {"socket_timeout": 5}
    config = make("redis://db", redis_options=options)
    options["socket_timeout"] = 6

    with pytest.raises(dataclasses.FrozenInstanceError):
        config.namespace = "other"
    assert config.redis_options == {"socket_timeout": 5}
    assert pickle.loads(pickle.dumps(config)) == copy.copy(config) == config
    assert hash(config) == hash(copy.copy(config))


@pytest.mark.parametrize("namespace", ["a", "thoonk", "A.b_c-d:e9", "x" * 100])
def test_a_namespace_is_taken(namespace):
    assert make(namespace=namespace).namespace == namespace


@pytest.mark.parametrize("namespace", ["", "x" * 101, "a b", "a{b}", "a/b", "ä", "a\n", "٣", None, 5, b"a", "a*"])
def test_another_namespace_is_refused(namespace):
    with pytest.raises(InvalidArgument, match="namespace="):
        make(namespace=namespace)


def test_a_publisher_is_a_name():
    assert make(publisher="billing").publisher == "billing"
    for publisher in ("", "x" * 201, 5, "\ud800"):
        with pytest.raises(InvalidArgument, match="publisher="):
            make(publisher=publisher)


def test_retry_for_is_a_bounded_time():
    assert make(retry_for=0).retry_for == 0.0
    assert make(retry_for=timedelta(minutes=1)).retry_for == 60.0
    for retry_for in (-1, math.inf, math.nan, None, "soon", True):
        with pytest.raises(InvalidArgument, match="retry_for="):
            make(retry_for=retry_for)


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0.0), (1, 1.0), (2.5, 2.5), (timedelta(minutes=2), 120.0), (timedelta.max, timedelta.max.total_seconds()),
     (math.inf, math.inf), (None, None)],
)  # fmt: skip
def test_a_time_is_seconds_or_a_timedelta(value, number):
    found = seconds(value, "delay")

    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize(
    "value", [True, False, math.nan, "5", b"5", [5], Fraction(5), 5j, 10**400, datetime(2026, 1, 1, tzinfo=UTC)]
)
def test_what_is_no_time_is_refused(value):
    with pytest.raises(InvalidArgument, match="lease=.* is not a number of seconds"):
        seconds(value, "lease")


def test_a_time_has_a_least():
    assert seconds(0, "delay") == 0
    assert seconds(0.001, "lease", open_below=True) == 0.001
    assert seconds(1, "every", least=1) == 1
    for value, bounds in ((-1, {}), (timedelta(seconds=-1), {}), (0, {"open_below": True}), (0.5, {"least": 1})):
        with pytest.raises(
            InvalidArgument, match="delay=.* is too short; it must be (more than|at least) [01] seconds"
        ):
            seconds(value, "delay", **bounds)


def test_a_date_is_an_aware_datetime_or_seconds_since_1970():
    zone = timezone(timedelta(hours=2))

    assert moment(datetime(1970, 1, 2, tzinfo=UTC), "run_at") == 86_400.0
    assert moment(datetime(1970, 1, 2, 2, tzinfo=zone), "run_at") == 86_400.0
    assert moment(datetime.max.replace(tzinfo=UTC), "run_at") > 2e11
    assert moment(86_400, "run_at") == 86_400.0
    assert moment(None, "run_at") is None


@pytest.mark.parametrize("value", [True, math.nan, math.inf, "2026-01-01", timedelta(1), [], 10**400])
def test_what_is_no_date_is_refused(value):
    with pytest.raises(InvalidArgument, match="run_at=.* is not a date"):
        moment(value, "run_at")


def test_a_naive_date_is_refused():
    with pytest.raises(InvalidArgument, match="run_at=.* has no time zone"):
        moment(datetime(2026, 1, 1), "run_at")


@pytest.mark.parametrize(
    ("value", "number"),
    [("low", -10), ("normal", 0), ("medium", 0), ("high", 10), ("critical", 20), ("front", math.inf),
     (True, math.inf), (False, 0), (5, 5), (-2.5, -2.5), (2**70, 2.0**70)],
)  # fmt: skip
def test_a_priority_is_a_number_or_a_word(value, number):
    found = priority_number(value)

    assert found == number
    assert type(found) is float


@pytest.mark.parametrize(
    "value", ["urgent", "High", "", None, math.nan, math.inf, -math.inf, [], b"high", "5", 10**400]
)
def test_another_priority_is_refused_with_the_words(value):
    with pytest.raises(InvalidArgument, match="priority=.* is not known") as refused:
        priority_number(value)

    assert all(word in str(refused.value) for word in PRIORITIES)


@pytest.mark.parametrize("value", ["a", "x" * 200, "ä{}\x00\r\n*", "😀" * 200])
def test_a_name_is_any_text_of_200_characters(value):
    assert text(value, "queue") == value


@pytest.mark.parametrize("value", ["", "x" * 201, "a\ud800", None, 5, b"a", ["a"], "x" * 10**6, 10**1000])
def test_another_name_is_refused_in_a_short_message(value):
    with pytest.raises(InvalidArgument, match="queue=") as refused:
        text(value, "queue")

    assert len(str(refused.value)) < 200
    assert isinstance(refused.value, ThoonkError)
