-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, retention
-- flags: allow-oom
-- args: (id)*
-- replies: the row's code; or {why, state}

local answers = T.each(3, 1, function(id)
  local answer = T.ask(id, {'retract'})
  if answer then return answer end
  T.dispossess(id)
  T.move(id, 'retract')
  return EDGES.retract.code
end)
T.trim_finished()
T.release_freed()
return answers
