-- promote: scheduled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- release: waiting -> available
-- expire: claimed -> available
-- exhaust: claimed -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- purge: finished -> absent
-- with: limits, retention, due
-- flags: allow-oom
-- args: none
-- replies: {more is due, ms until something is due or -1}

local more = T.settle()
return {more and 1 or 0, T.next_due()}
