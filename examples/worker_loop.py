"""A worker that decides by hand: finish, give back what may work later, set aside what never will."""

from __future__ import annotations

from thoonk_jobs import Broker, Claim, Job, State

GIVEN_UP_AFTER = 3
ADDRESSES = {"ann": "ann@example.com", "bob": None}
line_is_busy = {"ann": 1, "bob": 100}


def send(letter: dict[str, str]) -> str:
    """Stands for work on a bad line."""
    name = letter["to"]
    if line_is_busy[name] > 0:
        line_is_busy[name] -= 1
        raise ConnectionError(name)
    return f"sent to {ADDRESSES[name]}"


def handle(claim: Claim) -> None:
    """One job: exactly one verb ends the claim."""
    try:
        sent = send(claim.data)
    except ConnectionError as error:  # may work in a moment
        if claim.cancels + 1 < GIVEN_UP_AFTER:
            claim.cancel(f"line to {error} is busy")  # back to its queue, for anybody
        else:
            claim.stall(f"line to {error} was busy {GIVEN_UP_AFTER} times")
    else:
        claim.finish(sent)


def finished(job: Job) -> None:
    print(f"{job.data['to']}: {job.outcome}, {job.result}")


def stalled(job: Job) -> None:
    print(f"{job.data['to']}: set aside, {job.reason}")


with Broker() as broker:
    letters = broker.queue("letters")
    for name in ADDRESSES:
        letters.publish({"to": name}, on_finish=finished, on_stall=stalled)
    while claim := letters.get(timeout=0):
        handle(claim)
    broker.join()  # each is finished or stalled, and was told
    letters.retract_all(State.STALLED)  # nobody will mend that line
    broker.join()
