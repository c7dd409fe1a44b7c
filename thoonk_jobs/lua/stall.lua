-- stall: claimed, available, scheduled, waiting -> stalled
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- with: limits, retention
-- flags: allow-oom
-- args: (id, token, or nothing for an operator, reason)*
-- replies: the row's code; or {why, state}

local answers = {}
for at, id in ipairs(T.items(3, 3)) do
  local token, reason = ARGV[3 * at + 1], ARGV[3 * at + 2]
  if token == '' then token = nil end
  local answer = T.ask(id, {'stall'}, token)
  -- A claimant's token still fits a job that went back to its queue: only the holder's claim may stall by it.
  if not answer and token and T.jobs[id][STATE] ~= CLAIMED then answer = {'refused', T.jobs[id][STATE]} end
  if not answer then
    if not token then T.dispossess(id) end
    T.move(id, 'stall', reason)
    answer = EDGES.stall.code
  end
  answers[at] = answer
  T.next_item()
end
T.commit()
T.trim_stalled()
T.release_freed()
return answers
