-- finish: claimed -> finished
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, retention
-- flags: allow-oom
-- args: (id, token, result or nothing)*
-- replies: the row's code; or {why, state}

local answers = {}
T.sweep()
T.commit()
for at, id in ipairs(T.items(3, 3)) do
  local token, result = ARGV[3 * at + 1], ARGV[3 * at + 2]
  local answer = T.ask(id, {'finish'}, token)
  if not answer then
    local job = T.jobs[id]
    job[REASON] = ''
    T.move(id, 'finish')
    if result ~= '' or job[TOTAL_FAILURES] > 0 then T.keep_result(id, result) end
    answer = EDGES.finish.code
  end
  answers[at] = answer
  T.next_item()
end
T.commit()
T.trim_finished()
T.release_freed()
return answers
