-- stall: claimed, available, scheduled, waiting -> stalled
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- with: limits, retention
-- flags: allow-oom
-- args: (id, token, or nothing for an operator, reason)*
-- replies: the row's code; or {why, state}

local answers = T.each(3, 3, function(id, at)
  local token = ARGV[at + 1] ~= '' and ARGV[at + 1] or nil
  local answer = T.ask(id, {'stall'}, token)
  if answer then return answer end
  -- A claimant's token still fits a job that went back to its queue: only the holder's claim may stall by it.
  if token and T.jobs[id][STATE] ~= CLAIMED then return {'refused', T.jobs[id][STATE]} end
  if not token then T.dispossess(id) end
  T.move(id, 'stall', ARGV[at + 2])
  return EDGES.stall.code
end)
T.trim_stalled()
T.release_freed()
return answers
