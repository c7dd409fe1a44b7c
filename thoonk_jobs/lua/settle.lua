-- promote: scheduled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- park: available -> waiting
-- release: waiting -> available
-- expire: claimed -> available
-- exhaust: claimed -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- purge: finished -> absent
-- with: limits, lines, adjusting, retention, due
-- flags: allow-oom
-- args: 1 where the alarm of this process rang, which keeps the time from now on; else nothing
-- replies: 1 where more is due, else 0

if ARGV[3] == '1' then
  T.keeper, T.dirty = T.caller, true
  local late = T.due(K.told, T.now)
  for _, process in ipairs(late) do T.untell(process) end
  T.all = #late > 0
end
return T.settle() and 1 or 0
