-- stall: claimed, available, scheduled, waiting -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- park: available -> waiting
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- with: limits, lines, retention
-- flags: allow-oom
-- args: (id, token, or nothing for an operator, reason)*
-- replies: the row's code; or {why, state}

local answers = T.each(3, 3, function(id, at)
  local token, answer = ARGV[at + 1], nil
  if token == '' then answer = T.ask(id, {'stall'}) else answer = T.ask_claimant(id, {'stall'}, token) end
  if answer then return answer end
  if token == '' then T.dispossess(id) end
  T.move(id, 'stall', ARGV[at + 2])
  return EDGES.stall.code
end)
T.release_freed()
T.trim_stalled()
T.commit()
return answers
