# shellcheck shell=bash
# Completion for bash: eval "$(lxdocker completion bash)", or this file as
# ~/.local/share/bash-completion/completions/lxdocker
_lxdocker() {
    local IFS=$'\n' also='' value current=${COMP_WORDS[COMP_CWORD]}
    [ "$current" != = ] || current=
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        if [ -z "$also" ]; then also=$value; else COMPREPLY+=("$value"); fi
    done < <(_LXDOCKER_COMPLETE=${COMP_LINE:0:COMP_POINT} "${COMP_WORDS[0]}" 2>/dev/null)
    case $also in
    files) local kind=-f ;;
    dirs) local kind=-d ;;
    *) return ;;
    esac
    compopt -o filenames 2>/dev/null
    while read -r value; do COMPREPLY+=("$value"); done < <(compgen "$kind" -- "$current")
}
complete -F _lxdocker lxdocker
