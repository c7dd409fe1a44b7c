-- finish: claimed -> finished
-- lapse: available, scheduled, waiting, claimed -> finished
-- park: available -> waiting
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, lines, retention
-- flags: allow-oom
-- args: (id, token, result or nothing)*
-- replies: the row's code; or {why, state}

local ROWS = {'finish'}

T.sweep()
local answers = T.each(3, 3, function(id, at)
  local result = ARGV[at + 2]
  local answer = T.ask_claimant(id, ROWS, ARGV[at + 1])
  if answer then return answer end
  local job = T.jobs[id]
  job[REASON] = ''
  T.move(id, 'finish')
  if result ~= '' or job[TOTAL_FAILURES] > 0 then T.keep_result(id, result) end
  return EDGES.finish.code
end)
T.release_freed()
T.trim_finished()
T.commit()
return answers
