-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, retention
-- flags: allow-oom
-- args: (id)*
-- replies: the row's code; or {why, state}

local answers = {}
for at, id in ipairs(T.items(3, 1)) do
  local answer = T.ask(id, {'retract'})
  if not answer then
    T.dispossess(id)
    T.move(id, 'retract')
    answer = EDGES.retract.code
  end
  answers[at] = answer
  T.next_item()
end
T.commit()
T.trim_finished()
T.release_freed()
return answers
