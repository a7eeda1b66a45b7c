#compdef lxdocker
# Completion for zsh: eval "$(lxdocker completion zsh)" after compinit, or this file as _lxdocker in a folder of $fpath
_lxdocker() {
    local also value help line
    local -a described
    line="${(j: :)${(@q)words[1,CURRENT-1]}} ${(q)PREFIX}"
    while IFS=$'\t' read -r value help; do
        if [[ -z $also ]]; then
            also=$value
        elif [[ -n $help ]]; then
            described+=("${value//:/\\:}:$help")
        else
            described+=("${value//:/\\:}")
        fi
    done < <(_LXDOCKER_COMPLETE=$line ${words[1]} 2>/dev/null)
    [[ $PREFIX != --*=* ]] || compset -P '*='
    (( ! $#described )) || _describe -V lxdocker described
    case $also in
    files) _files ;;
    dirs) _files -/ ;;
    esac
}
if [ "$funcstack[1]" = _lxdocker ]; then
    _lxdocker "$@"
else
    compdef _lxdocker lxdocker
fi
