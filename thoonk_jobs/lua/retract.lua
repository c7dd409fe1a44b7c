-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, retention
-- flags: allow-oom
-- args: (id)*
-- replies: the row's code; or {why, state}

local answers = {}
for at, id in ipairs(items(3, 1)) do
  local answer = ask(id, {'retract'})
  if not answer then
    dispossess(id)
    move(id, 'retract')
    answer = EDGES.retract.code
  end
  answers[at] = answer
end
commit()
trim_finished()
release_freed()
return answers
