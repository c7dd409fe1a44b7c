-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- park: available -> waiting
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, lines, retention
-- flags: allow-oom
-- args: (id, 16 digits that name this request)*
-- replies: the row's code; or {why, state}

local answers = T.each(3, 2, function(id, at)
  local answer = T.ask_once(id, 'retract', ARGV[at + 1])
  if answer then return answer end
  T.dispossess(id)
  T.touch(id)
  T.jobs[id][REQUEST] = ARGV[at + 1]
  T.move(id, 'retract')
  return EDGES.retract.code
end)
T.release_freed()
T.trim_finished()
T.commit()
return answers
